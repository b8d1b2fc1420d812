//! The key store: tenants' secrets and persons' data keys, wrapped by one key that lives in a file.
//!
//! The file holds 32 random bytes and is made, readable by its owner alone, at the first start. The database holds
//! secrets and data keys sealed with it (AES-256-GCM, bound to the row), and a check value by which a wrong file is
//! noticed before anything is sealed under it. Erasing a person removes the wrapped key: what was sealed under it is
//! noise from then on, wherever copies lie.

mod cache;
mod key_file;
mod store;

pub use cache::{DataKeyCache, KeyLookup};
pub use key_file::{KeyFile, KeyFileError, WrapError};
pub use store::{KeyFileState, KeyStore, KeyStoreError, KeyStoreOptions, key_file_state};
