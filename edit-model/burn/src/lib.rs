//! The network of `edit-model` in burn: the oracle and the baseline of our own engine, and its other half on CUDA.

mod llama;

#[cfg(feature = "cuda")]
mod cuda;

pub use llama::BurnBackend;

use burn_autodiff::Autodiff;
use edit_model::Network;

#[cfg(feature = "cuda")]
pub use cuda::{cuda, probe};

/// Burn on this machine's processors.
pub type FlexBackend = BurnBackend<Autodiff<burn_flex::Flex>>;

/// The network on all processors of this machine.
#[must_use]
pub fn flex(network: Network) -> FlexBackend {
    BurnBackend::new("burn flex", network, burn_flex::FlexDevice, 4096)
}
