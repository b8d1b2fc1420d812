//! Our own doors: whether their addresses are free, or taken by ourselves, and how long their certificates last.

use std::sync::Arc;

use service::finding::Finding;
use service::http::{BindError, HttpConfig, bind};

use super::Patient;
use crate::services::{ADMIN_DOOR, INGEST, REGISTRY, SERVING};

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let settings = &patient.settings;
    let doors = [
        (SERVING, &settings.serving.http),
        (INGEST, &settings.ingest.http),
        (REGISTRY, &settings.registry.http),
        (ADMIN_DOOR, &settings.admin),
    ];
    let mut findings = Vec::new();
    for (name, config) in doors {
        findings.push(door(&patient, name, config).await);
        #[cfg(feature = "production")]
        if let Some(path) = &config.tls.certificate_file {
            findings.extend(certificate(&format!("doors.{name}"), path).await);
        }
    }
    findings
}

async fn door(patient: &Patient, name: &str, config: &HttpConfig) -> Finding {
    let check = format!("doors.{name}");
    let bound = bind(name, config).await;
    let error = match bound {
        Ok(listener) => {
            drop(listener);
            return Finding::ok(check, format!("{} is free", config.listen));
        }
        Err(error) => error,
    };
    if let BindError::InUse { address, .. } = &error {
        let is_ours = patient.data.as_ref().is_some_and(|data| {
            data.doors().values().any(|announced| announced == address) && data.is_in_use().unwrap_or(false)
        });
        return if is_ours {
            Finding::ok(check, format!("{address} is open: a platform on this data directory listens there"))
        } else {
            let says = format!("another program listens on {address}");
            Finding::failed(check, says, format!("end it, or set `{}.listen`", section(name)))
        };
    }
    Finding::told(check, &error.to_string(), &format!("correct `[{}]`", section(name)))
}

/// Where a door is configured.
fn section(name: &str) -> String {
    if name == ADMIN_DOOR { name.to_owned() } else { format!("{name}.http") }
}

/// What lasts less than this has to be renewed now.
#[cfg(feature = "production")]
const LASTS_DAYS: i64 = 14;

/// A certificate that does not last; none: it does. That it can not be read is told by whoever needs it.
#[cfg(feature = "production")]
pub(super) async fn certificate(check: &str, path: &std::path::Path) -> Option<Finding> {
    let expires = service::tls::certificate_expiry(path).await.ok().flatten()?;
    let left = expires - service::clock::real_now().as_micros() / 1_000_000;
    let (days, shown) = (left.div_euclid(86_400), path.display());
    let advice = "renew it; files of doors are read again when they change";
    if left <= 0 {
        Some(Finding::failed(check, format!("the certificate in {shown} has expired"), advice))
    } else if days < LASTS_DAYS {
        Some(Finding::warning(check, format!("the certificate in {shown} expires in {days} days"), advice))
    } else {
        None
    }
}
