//! From a setting to what computes the network.

use edit_model::{CpuBackend, Device, ModelError, Network, NetworkBackend};

/// One backend for each thread on the CPU; one alone on a GPU, which is busy with a single batch.
///
/// # Errors
/// [`ModelError::Backend`] says what the build or the machine lacks.
pub fn backends(device: Device, network: &Network, threads: usize) -> Result<Vec<Box<dyn NetworkBackend>>, ModelError> {
    match device {
        Device::Cpu => Ok((0..threads.max(1))
            .map(|_| Box::new(CpuBackend::new(network.clone())) as Box<dyn NetworkBackend>)
            .collect()),
        Device::Cuda => cuda(network),
    }
}

/// Says what the build or the machine lacks for `device`, before anything is queued for it.
///
/// # Errors
/// [`ModelError::Backend`].
pub fn probe(device: Device) -> Result<(), ModelError> {
    match device {
        Device::Cpu => Ok(()),
        #[cfg(feature = "cuda")]
        Device::Cuda => edit_model_burn::probe(),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(not_built()),
    }
}

#[cfg(feature = "cuda")]
fn cuda(network: &Network) -> Result<Vec<Box<dyn NetworkBackend>>, ModelError> {
    Ok(vec![edit_model_burn::cuda(network.clone())?])
}

#[cfg(not(feature = "cuda"))]
fn cuda(_network: &Network) -> Result<Vec<Box<dyn NetworkBackend>>, ModelError> {
    Err(not_built())
}

#[cfg(not(feature = "cuda"))]
fn not_built() -> ModelError {
    ModelError::Backend("this build has no CUDA; build with --features cuda".to_owned())
}

#[cfg(test)]
mod tests {
    use edit_model::ModelConfig;

    use super::*;

    #[test]
    fn threads_are_backends_on_the_cpu() {
        let network = Network::new(ModelConfig::base(64, 0, 1)).unwrap();
        assert_eq!(backends(Device::Cpu, &network, 3).unwrap().len(), 3);
        assert_eq!(backends(Device::Cpu, &network, 0).unwrap().len(), 1);
        probe(Device::Cpu).unwrap();
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let network = Network::new(ModelConfig::base(64, 0, 1)).unwrap();
        for result in [probe(Device::Cuda), backends(Device::Cuda, &network, 2).map(|_| ())] {
            let text = result.unwrap_err().to_string();
            assert_eq!(text, "this build has no CUDA; build with --features cuda");
        }
    }
}
