//! Where the bucket is, and how it is spoken to.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::config::Credentials;

/// Above this an object goes up in parts.
const MULTIPART_BYTES: u64 = 16 << 20;
/// One part. With [`PARALLEL_PARTS`] of them in memory at once.
const PART_BYTES: u64 = 8 << 20;
/// Parts of one object on their way at once.
const PARALLEL_PARTS: usize = 4;

/// The bucket, its door, and how patient we are with it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Where objects are. It must exist.
    pub bucket: String,
    /// The address of a store that speaks the protocol of S3, with its scheme; none: Amazon's, by region, or what the
    /// environment of its tools says.
    pub endpoint: Option<String>,
    /// The region that requests are signed for; none: what the environment of Amazon's tools says, and `us-east-1` for
    /// an endpoint of one's own, of which most do not care.
    pub region: Option<String>,
    /// Authorities (PEM) of which one has signed the store's certificate; none: those that this machine trusts. Where
    /// credentials are looked for elsewhere, both.
    pub ca_file: Option<PathBuf>,
    /// Stands before the keys of all objects, for platforms that share a bucket.
    pub prefix: String,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`, which needs a name for each bucket.
    pub path_style: bool,
    /// None: the chain of Amazon's tools: environment, profile, web identity, container, instance.
    pub credentials: Option<S3Credentials>,
    /// How often a request is tried in all, when it fails for a reason that may pass.
    pub attempts: u32,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long the first byte of an answer may take, the sending of the request included.
    pub read_timeout: Duration,
    /// Objects of more bytes go up in parts.
    pub multipart_bytes: u64,
    /// Bytes of a part; S3 takes no less than 5 MiB.
    pub part_bytes: u64,
    /// Parts of one object on their way at once.
    pub parallel_parts: usize,
}

impl S3Config {
    /// The defaults for a bucket.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint: None,
            region: None,
            ca_file: None,
            prefix: String::new(),
            path_style: true,
            credentials: None,
            attempts: 5,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(60),
            multipart_bytes: MULTIPART_BYTES,
            part_bytes: PART_BYTES,
            parallel_parts: PARALLEL_PARTS,
        }
    }

    /// What stands before the keys of all objects: the prefix with one slash behind it, or nothing.
    pub(super) fn key_prefix(&self) -> String {
        match self.prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }
}

/// An access key. Its secret shows itself to nobody.
#[derive(Clone)]
pub struct S3Credentials {
    access_key_id: String,
    credentials: Credentials,
}

impl S3Credentials {
    /// An access key of two parts.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        let access_key_id = access_key_id.into();
        let credentials = Credentials::new(access_key_id.clone(), secret_access_key, None, None, "configuration");
        Self { access_key_id, credentials }
    }

    pub(super) fn provider(&self) -> Credentials {
        self.credentials.clone()
    }
}

impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("S3Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}
