//! What a handle does by itself as long as it is there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::client::Questions;
use crate::error::BusError;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks after a handle until it is gone.
pub(super) async fn keep(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(inner) = inner.upgrade() else { return };
        match inner.context.renew_token().await {
            Ok(true) => inner.give_token(),
            Ok(false) => {}
            // It was told aloud, and clients that are refused for it say so.
            Err(error) => tracing::debug!(%error, "there is no token for the Kafka brokers"),
        }
        inner.questions.hear();
        if inner.context.refused().is_some() {
            let knocking = Arc::clone(&inner);
            if let Err(error) = inner.blocking(move || knocking.knock()).await {
                tracing::debug!(%error, "the Kafka brokers still do not let us in");
            }
        }
    }
}

impl Inner {
    /// Gives the token of now to the clients that live as long as the handle and are polled by nobody.
    fn give_token(&self) {
        let given = self.questions.give_token().and_then(|()| self.context.give_token(self.admin.inner()));
        if let Err(error) = given {
            tracing::warn!(%error, "a Kafka client has no new token");
        }
    }

    /// Whether the brokers let us in again. Connections that are open say nothing of that, and clients whose
    /// connections were refused try for themselves; so it is a new client that asks. Blocks.
    pub(super) fn knock(&self) -> Result<(), BusError> {
        let questions = Questions::new(&self.config, &self.context.apart())?;
        questions.partitions(&self.config.stored_name(events::topics::TELEMETRY_RAW))?;
        self.context.admitted();
        Ok(())
    }
}
