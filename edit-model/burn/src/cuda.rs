//! Burn on the first NVIDIA GPU. Its libraries are loaded at run time; burn panics without them, so they are looked for
//! first and their absence is an ordinary error.

use burn_autodiff::Autodiff;
use burn_cuda::{Cuda, CudaDevice};
use cudarc::driver::CudaContext;
use edit_model::{ModelError, Network, NetworkBackend};

use crate::BurnBackend;

/// Enough rows to fill a GPU with a network of this size; activations stay below 2 GiB.
const BATCH_TOKENS: usize = 16_384;

fn missing(what: impl std::fmt::Display) -> ModelError {
    ModelError::Backend(format!("device cuda can not be used: {what}"))
}

/// Says what is missing when no GPU can be used.
///
/// # Errors
/// [`ModelError::Backend`] names the missing library or the driver's reason.
pub fn probe() -> Result<(), ModelError> {
    // SAFETY: these only open the libraries of the CUDA installation, whose initialisers the process trusts as soon as
    // it uses the GPU; no symbol of them is called.
    #[allow(unsafe_code, reason = "opening a shared library is unsafe by nature, and burn panics when it is absent")]
    let (driver, compiler) =
        unsafe { (cudarc::driver::sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present()) };
    if !driver {
        return Err(missing("the NVIDIA driver library (libcuda) is not installed on this machine"));
    }
    if !compiler {
        return Err(missing("the CUDA run-time compiler (libnvrtc) is not installed on this machine"));
    }
    match CudaContext::device_count() {
        Ok(0) => Err(missing("this machine has no GPU")),
        Ok(_) => Ok(()),
        Err(error) => Err(missing(format!("the driver answers {error:?}"))),
    }
}

/// The network on the first GPU.
///
/// # Errors
/// As [`probe`].
pub fn cuda(network: Network) -> Result<Box<dyn NetworkBackend>, ModelError> {
    probe()?;
    Ok(Box::new(BurnBackend::<Autodiff<Cuda>>::new("burn cuda", network, CudaDevice::default(), BATCH_TOKENS)))
}
