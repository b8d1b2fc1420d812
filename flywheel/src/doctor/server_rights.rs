//! The rights at servers: for `kafka-acls.sh`, for `psql`, and as a policy.

use std::collections::BTreeMap;

use bus::kafka::{Resource, Right};
use migrations::Roles;
use serde_json::json;
use service::config::Secret;
use sqlx::postgres::PgConnectOptions;

use super::kafka::{config, usage};
use super::rights::Rights;
use crate::artifact_store::bucket;
use crate::cli::{DoctorArgs, RightsPart};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::shell::quoted;

/// Who we are when nothing else is said.
const FLYWHEEL: &str = "flywheel";

pub(super) fn kafka(settings: &Settings, arguments: &DoctorArgs) -> Rights {
    let config = config(settings);
    let rights = bus::kafka::rights(&config, &usage(settings));
    let user = match config.sasl.username.as_str() {
        "" => FLYWHEEL,
        user => user,
    };
    let principal = arguments.principal.clone().unwrap_or_else(|| format!("User:{user}"));
    let table: Vec<_> = rights
        .iter()
        .map(|right| {
            json!({
                "resource": resource(right.resource),
                "name": right.name,
                "pattern": if right.is_prefix { "prefixed" } else { "literal" },
                "operations": operations(right),
            })
        })
        .collect();
    let brokers = quoted(config.bootstrap_servers.trim());
    let text = format!(
        "# Apache Kafka: what {principal} must be allowed. Add `--command-config FILE` where the brokers want to\n\
         # know who asks. Brokers before 2.8 want `--cluster --operation IdempotentWrite` besides. Where topics\n\
         # are made by somebody else, `Create` and `AlterConfigs` can be left out.\n{}",
        commands(&rights, &brokers, &principal)
    );
    (RightsPart::Kafka, text, json!({ "principal": principal, "rights": table }))
}

const fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::Topic => "topic",
        Resource::Group => "group",
        Resource::TransactionalId => "transactional-id",
    }
}

fn operations(right: &Right) -> Vec<&'static str> {
    right.operations.iter().map(|operation| operation.name()).collect()
}

/// One command for all things of a kind that need the same: each takes a second to start.
fn commands(rights: &[Right], brokers: &str, principal: &str) -> String {
    let mut alike: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for right in rights {
        let kind = (right.resource, right.is_prefix, operations(right));
        alike.entry(kind).or_default().push(&right.name);
    }
    let mut text = String::new();
    for ((kind, is_prefix, operations), names) in alike {
        text += &format!("kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal {}", quoted(principal));
        if is_prefix {
            text += " --resource-pattern-type prefixed";
        }
        for operation in operations {
            text += &format!(" --operation {operation}");
        }
        for name in names {
            text += &format!(" \\\n  --{} {}", resource(kind), quoted(name));
        }
        text += "\n";
    }
    text
}

pub(super) fn postgresql(url: &Secret, arguments: &DoctorArgs) -> Result<Rights, Failure> {
    // The library's words might repeat a part of the URL.
    let options: PgConnectOptions = url
        .expose_secret()
        .parse()
        .map_err(|_| Failure::refused("`database.url`: expected postgres://USER:PASSWORD@HOST:PORT/NAME"))?;
    let services = arguments.role.as_deref().unwrap_or(options.get_username());
    let database = options.get_database().unwrap_or(options.get_username());
    let roles = Roles { services, migrating: &arguments.migrating_role };
    let statements = migrations::grants(database, roles);
    let text = format!(
        "-- PostgreSQL: what the services ({services}) and `flywheel migrate` ({}) must be allowed. To be run by the\n\
         -- owner of the database: the first three lines before `flywheel migrate`, all of them after it, and again\n\
         -- after a release that made tables (`flywheel doctor` says so). What comes after the first three lines is\n\
         -- what `flywheel migrate --grant-to {}` does each time.\n{statements}",
        roles.migrating,
        quoted(services)
    );
    let json = json!({
        "database": database, "role": services, "migrating_role": roles.migrating,
        "statements": statements.lines().collect::<Vec<_>>(),
    });
    Ok((RightsPart::Postgresql, text, json))
}

/// A policy is JSON, which knows no comments.
pub(super) fn s3(settings: &Settings) -> Result<Rights, Failure> {
    let json = artifacts::bucket_policy(&bucket(&settings.artifacts.s3));
    let text = serde_json::to_string_pretty(&json)?;
    Ok((RightsPart::S3, text, json))
}
