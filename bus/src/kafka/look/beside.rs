//! The servers beside the brokers: who gives tokens, and the registry of schemas.

use events::topics;
use service::finding::Finding;

use super::list;
use crate::kafka::client::Context;
use crate::kafka::config::{KafkaConfig, SaslMechanism};
use crate::kafka::registry::{Registry, subject_of};

const TOKEN: &str = "kafka.token";
const SCHEMAS: &str = "kafka.schemas";

/// Whether there is a token to enter with; none: tokens are not what we enter with.
pub(super) async fn token(config: &KafkaConfig, context: &Context) -> Option<Finding> {
    if config.sasl.mechanism != Some(SaslMechanism::OauthBearer) {
        return None;
    }
    let oauth = &config.sasl.oauth;
    let (says, advice) = match &oauth.token_endpoint_url {
        Some(url) => (
            format!("the token endpoint {url} gives client `{}` a token", oauth.client_id),
            "correct `[bus.kafka.sasl.oauth]`, or ask whoever runs the token endpoint",
        ),
        None => (
            "`bus.kafka.sasl.oauth.token_file` holds a token".to_owned(),
            "name the file with `bus.kafka.sasl.oauth.token_file`, and look whether what keeps it fresh is well",
        ),
    };
    Some(match context.renew_token().await {
        Ok(_) => Finding::ok(TOKEN, says),
        Err(error) => Finding::told(TOKEN, &error.to_string(), advice),
    })
}

/// Whether the registry of schemas lets us in, and knows our topics; none: there is none.
pub(super) async fn schemas(config: &KafkaConfig) -> Option<Finding> {
    let registry = match Registry::of(config) {
        Ok(registry) => registry?,
        Err(error) => {
            return Some(Finding::told(SCHEMAS, &error.to_string(), "correct `[bus.kafka.schema_registry]`"));
        }
    };
    let known = match registry.subjects(&config.prefix).await {
        Ok(known) => known,
        Err((says, advice)) => return Some(Finding::failed(SCHEMAS, says, advice)),
    };
    let register = config.schema_registry.register;
    let mut absent = Vec::new();
    for topic in topics::ALL {
        let subject = subject_of(config, topic);
        // A list may be cut off, and where we register nothing our schemas must be there.
        if !known.contains(&subject) && (register || !registry.knows(topic, &subject).await) {
            absent.push(subject);
        }
    }
    let count = absent.len();
    Some(if count == 0 {
        Finding::ok(SCHEMAS, format!("{} lets us in, and knows all our subjects", registry.name()))
    } else if register {
        let says = format!("{} lets us in, and does not know {count} of our subjects yet", registry.name());
        Finding::ok(SCHEMAS, format!("{says}: {}; the first start of a service registers them", list(&absent)))
    } else {
        let says = format!("{} does not know {count} of our subjects: {}", registry.name(), list(&absent));
        let advice = "register their schemas, or set `bus.kafka.schema_registry.register` = true";
        Finding::failed(SCHEMAS, says, advice)
    })
}
