//! How far the making of a data set is, for whoever waits for it.

use std::fmt;

/// Sees what is done, and how far it is.
pub trait Watch: fmt::Debug + Send + Sync {
    /// What is done next, and with how many pairs; none: they are not counted.
    fn begin(&self, what: &'static str, of: Option<u64>);
    /// So many more are done.
    fn advance(&self, count: u64);
}

/// Nobody waits.
impl Watch for () {
    fn begin(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
}
