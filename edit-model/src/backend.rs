//! What training asks of whatever computes the network: log p of targets, then the gradient of a weighted sum of them.
//!
//! Losses, optimiser and checkpoints see nothing but this trait and one flat vector of weights, so that another engine
//! or another device changes one constructor call.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::network::{Network, Sequence, Workspace};

/// Computes a network forward and backward. An implementation belongs to one thread at a time.
pub trait NetworkBackend: Send {
    /// Which implementation it is, for messages.
    fn name(&self) -> &'static str;

    /// Tokens that go through best at once: more fill caches or a device, fewer waste the kernels.
    fn batch_tokens(&self) -> usize;

    /// Log p of every target, in the order of `sequences`, under `weights` in the order of [`Network::tensors`]. What
    /// [`NetworkBackend::backward`] needs is kept until the next call.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for what [`Network::check`] refuses, [`ModelError::Backend`] when the device fails.
    fn forward(&mut self, weights: &[f32], sequences: &[Sequence<'_>]) -> Result<Vec<f32>, ModelError>;

    /// Adds the gradient of `sum_i coefficient[i] * (-log p_i)` to `gradients`, once after each
    /// [`NetworkBackend::forward`] with the same weights.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when the lengths do not fit the forward pass, [`ModelError::Backend`] when the device
    /// fails.
    fn backward(&mut self, weights: &[f32], coefficients: &[f32], gradients: &mut [f32]) -> Result<(), ModelError>;
}

/// Where a network is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// This machine's processors, by our own engine.
    #[default]
    Cpu,
    /// The first NVIDIA GPU; needs a build with the cargo feature `cuda`.
    Cuda,
}

impl Device {
    /// Its name in settings and job files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(format!("\"{other}\" is no device; choose cpu or cuda")),
        }
    }
}

/// Our own engine: ragged batches on one core. Several of them side by side use several cores.
#[derive(Debug)]
pub struct CpuBackend {
    network: Network,
    workspace: Workspace,
}

impl CpuBackend {
    /// The engine for `network`.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network, workspace: Workspace::default() }
    }
}

impl NetworkBackend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn batch_tokens(&self) -> usize {
        640
    }

    fn forward(&mut self, weights: &[f32], sequences: &[Sequence<'_>]) -> Result<Vec<f32>, ModelError> {
        self.network.forward(weights, sequences, &mut self.workspace)
    }

    fn backward(&mut self, weights: &[f32], coefficients: &[f32], gradients: &mut [f32]) -> Result<(), ModelError> {
        self.network.backward(weights, coefficients, &mut self.workspace, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_one_name_everywhere() {
        for device in [Device::Cpu, Device::Cuda] {
            assert_eq!(device.name().parse::<Device>(), Ok(device));
            assert_eq!(serde_json::to_string(&device).unwrap(), format!("\"{}\"", device.name()));
        }
        assert_eq!("gpu".parse::<Device>(), Err("\"gpu\" is no device; choose cpu or cuda".to_owned()));
    }
}
