//! Content-addressed objects: large and immutable, named by the SHA-256 of their bytes, verified on write and read.
//!
//! A name says what the bytes must be, so an object is either right or reported: a truncated or flipped one never
//! reaches a reader. Putting is idempotent, and an object that no database row names is garbage. A directory (a model
//! in the Hugging Face layout) is stored as its files and a [`DirectoryManifest`], whose digest names the whole.

mod digest;
mod directory;
mod error;
mod local;
#[cfg(feature = "production")]
mod s3;
mod store;

pub use directory::{
    DirectoryManifest, ManifestFile, get_directory, get_manifest, manifest_of, put_directory, verify_directory,
};
pub use error::ArtifactError;
pub use local::LocalArtifacts;
#[cfg(feature = "production")]
pub use s3::{S3Artifacts, S3Config, S3Credentials, bucket_policy};
pub use store::{ArtifactStore, Stored};
