//! Why the brokers do not let us in, in our words and with our keys: the client says it in its own, in a callback.

use rdkafka::error::RDKafkaErrorCode;

use super::config::{KafkaConfig, SaslMechanism};

/// How we try to enter, as far as sentences tell of it. No secret is part of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Entering {
    user: String,
    mechanism: Option<SaslMechanism>,
    within_tls: bool,
    names_authorities: bool,
    shows_certificate: bool,
}

impl Entering {
    pub(super) fn by(config: &KafkaConfig) -> Self {
        Self {
            user: config.sasl.username.clone(),
            mechanism: config.sasl.mechanism,
            within_tls: config.tls.enabled,
            names_authorities: config.tls.ca_file.is_some(),
            shows_certificate: config.tls.certificate_file.is_some(),
        }
    }

    /// Who we are.
    pub(super) fn who(&self) -> String {
        if self.user.is_empty() { "our user".to_owned() } else { format!("user `{}`", self.user) }
    }

    /// The sentence for an error of a client that will not pass by itself; none: it may.
    pub(super) fn refusal(&self, code: RDKafkaErrorCode, reason: &str) -> Option<String> {
        let Heard { address, said, .. } = Heard::read(reason);
        match code {
            // A connection that is renewed too late, or too soon after it was renewed, is begun anew.
            RDKafkaErrorCode::Authentication if said.contains("handshake failed") && mechanisms(said).is_empty() => {
                None
            }
            // The client's echo of what it said before with the name of the broker. Who shows tokens may have none to
            // show, and then there is no broker to name.
            RDKafkaErrorCode::Authentication
                if names_no_broker(address) && self.mechanism != Some(SaslMechanism::OauthBearer) =>
            {
                None
            }
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism => Some(self.no_entry(address, said)),
            RDKafkaErrorCode::SSL => Some(self.no_tls(address, said)),
            RDKafkaErrorCode::BrokerTransportFailure if self.within_tls && wants_certificate(said) => {
                Some(self.no_certificate(address))
            }
            _ => None,
        }
    }

    /// What the last error that may pass says about how we try to enter, or where.
    pub(super) fn trouble(&self, reason: &str) -> String {
        let Heard { address, said, state, lasted_ms } = Heard::read(reason);
        if said.contains("Connection refused") {
            return format!("nothing listens at {address}");
        }
        if said.contains("Failed to resolve") {
            return format!("there is no host of the name in {address}");
        }
        // What a broker ends a connection for that it does not understand, it does not say.
        let may = match state {
            "APIVERSION_QUERY" if !self.within_tls => "want TLS (`bus.kafka.tls.enabled` = true)",
            "SSL_HANDSHAKE" => "not speak TLS (`bus.kafka.tls.enabled` = false)",
            "UP" if self.mechanism.is_none() && lasted_ms.is_some_and(|lasted| lasted < 2_000) => {
                "want a user (`bus.kafka.sasl.mechanism`)"
            }
            _ => return format!("{address} says: {said}"),
        };
        format!("{address} ends the connection at once, and may {may}")
    }

    fn no_entry(&self, address: &str, said: &str) -> String {
        if names_no_broker(address) {
            return format!("there is no token to enter with: {said}");
        }
        let said = said.strip_prefix("SASL authentication error: ").unwrap_or(said);
        let mechanism = self.mechanism.map_or("", SaslMechanism::name);
        let known = mechanisms(said);
        if !known.is_empty() {
            return format!("{address} does not know {mechanism}, as `bus.kafka.sasl.mechanism` says, but {known}");
        }
        if self.mechanism == Some(SaslMechanism::OauthBearer) {
            return format!("{address} does not accept our token: {said}");
        }
        format!(
            "{address} does not let user `{}` in, who tries by {mechanism} with `bus.kafka.sasl.password`: {said}",
            self.user
        )
    }

    fn no_tls(&self, address: &str, said: &str) -> String {
        let says = |what: &str| said.contains(what);
        if says("certificate verify failed") || says("Failed to verify broker certificate") {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let authorities = if self.names_authorities {
                "no authority in `bus.kafka.tls.ca_file` vouches for it"
            } else {
                "no authority of this system vouches for it (`bus.kafka.tls.ca_file` names others)"
            };
            format!(
                "the certificate of {address} is not to be trusted: {authorities}, or it is not for the name {host}, \
                 or its time is over"
            )
        } else if wants_certificate(said) {
            self.no_certificate(address)
        } else if says("wrong version number") || says("packet length too long") {
            format!("{address} does not speak TLS, as `bus.kafka.tls.enabled` says")
        } else {
            format!("{address} does not speak TLS with us: {said}")
        }
    }

    fn no_certificate(&self, address: &str) -> String {
        if self.shows_certificate {
            format!("{address} does not accept the certificate in `bus.kafka.tls.certificate_file`")
        } else {
            format!("{address} wants a certificate of ours, and `bus.kafka.tls.certificate_file` names none")
        }
    }
}

/// What a broker says that it knows when it does not know what it was asked for; empty: it did not say.
fn mechanisms(said: &str) -> &str {
    let known = said.split_once("supported mechanisms: ").map_or("", |(_, known)| known);
    if known == "(n/a)" { "" } else { known.trim_end_matches(['.', ' ']) }
}

/// Whether what stands before the colon is a sentence.
fn names_no_broker(address: &str) -> bool {
    address.contains(' ')
}

/// Brokers that want another certificate say so in an alert, after the handshake or within it.
fn wants_certificate(said: &str) -> bool {
    ["alert certificate", "alert bad certificate", "alert unknown ca", "client SSL authentication might be required"]
        .iter()
        .any(|what| said.contains(what))
}

/// What the client says about a broker.
struct Heard<'a> {
    /// Host and port.
    address: &'a str,
    said: &'a str,
    /// How far the connection was.
    state: &'a str,
    /// For how long it was there.
    lasted_ms: Option<u64>,
}

impl<'a> Heard<'a> {
    /// Reads `sasl_ssl://127.0.0.1:9093/bootstrap: What it says (after 3ms in state AUTH_REQ)`, with or without the name
    /// of a thread before it.
    fn read(reason: &'a str) -> Self {
        let reason = reason.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(reason, |(_, it)| it);
        let (name, said) = reason.split_once(": ").unwrap_or(("the broker", reason));
        let address = name.split_once("://").map_or(name, |(_, address)| address);
        let address = address.split('/').next().unwrap_or(address);
        let (said, after) = said.rsplit_once(" (after ").unwrap_or((said, ""));
        let state = after.rsplit_once("in state ").map_or("", |(_, state)| state);
        let state = state.split([')', ',']).next().unwrap_or(state);
        let lasted_ms = after.split_once("ms ").and_then(|(lasted, _)| lasted.parse().ok());
        Self { address, said, state, lasted_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_is_taken_apart() {
        let reason = "[thrd:sasl_ssl://kafka:9093/1]: sasl_ssl://kafka:9093/1: SASL: no: more (after 3ms in state \
                      AUTH_REQ, 4 identical error(s) suppressed)";
        for reason in [reason, reason.split_once("]: ").unwrap().1] {
            let Heard { address, said, state, lasted_ms } = Heard::read(reason);
            assert_eq!((address, said, state), ("kafka:9093", "SASL: no: more", "AUTH_REQ"));
            assert_eq!(lasted_ms, Some(3));
        }
        let Heard { address, said, state, lasted_ms } = Heard::read("GroupCoordinator: gone");
        assert_eq!((address, said, state, lasted_ms), ("GroupCoordinator", "gone", "", None));
        assert_eq!(Heard::read("of another form").address, "the broker");
    }

    #[test]
    fn what_may_pass_by_itself_is_no_refusal() {
        let entering = Entering { within_tls: true, ..Entering::default() };
        let gone = "ssl://kafka:9093/1: Disconnected (after 9ms in state UP)";
        assert_eq!(entering.refusal(RDKafkaErrorCode::BrokerTransportFailure, gone), None);
        assert_eq!(entering.refusal(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"), None);
        assert!(entering.trouble(gone).contains("may want a user"));
        for known in ["", "(n/a)"] {
            let late = format!(
                "sasl_ssl://kafka:9093/1: SASL OAUTHBEARER mechanism handshake failed: Broker: Request not valid in \
                 current SASL state: broker's supported mechanisms: {known} (after 9ms in state AUTH_HANDSHAKE)"
            );
            assert_eq!(entering.refusal(RDKafkaErrorCode::Authentication, &late), None);
        }
        let echo = "Failed to acquire transactional PID: Local: Authentication failure";
        let by = |mechanism| Entering { mechanism: Some(mechanism), ..Entering::default() };
        assert_eq!(by(SaslMechanism::ScramSha512).refusal(RDKafkaErrorCode::Authentication, echo), None);
        let none = by(SaslMechanism::OauthBearer).refusal(RDKafkaErrorCode::Authentication, echo);
        assert_eq!(none.as_deref(), Some("there is no token to enter with: Local: Authentication failure"));
        let late = "ssl://kafka:9093/1: Disconnected (after 90000ms in state UP)";
        assert_eq!(entering.trouble(late), "kafka:9093 says: Disconnected");
    }
}
