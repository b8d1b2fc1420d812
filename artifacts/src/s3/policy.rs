//! What our credentials must be allowed, in the words of Amazon's policies, which other stores read too.

use serde_json::{Value, json};

use super::{OBJECTS, PROBE, S3Config};

/// What is done with objects. The parts of a large one are put under the right to put.
const ON_OBJECTS: [&str; 4] = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"];
/// What is done with the bucket: an object that is absent is told apart from one that is forbidden.
const ON_BUCKET: [&str; 1] = ["s3:ListBucket"];

/// The policy that allows what a platform does in a bucket, and nothing else.
#[must_use]
pub fn bucket_policy(config: &S3Config) -> Value {
    // Regions that are apart from the others have names of their own for everything.
    let partition = match config.region.as_deref() {
        Some(region) if region.starts_with("cn-") => "aws-cn",
        Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    let bucket = format!("arn:{partition}:s3:::{}", config.bucket);
    let prefix = config.key_prefix();
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "FlywheelObjects",
                "Effect": "Allow",
                "Action": ON_OBJECTS,
                "Resource": [format!("{bucket}/{prefix}{OBJECTS}*"), format!("{bucket}/{prefix}{PROBE}")],
            },
            { "Sid": "FlywheelBucket", "Effect": "Allow", "Action": ON_BUCKET, "Resource": [bucket] },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_the_prefix_as_keys_have_it() {
        let config = |prefix: &str, region: &str| S3Config {
            prefix: prefix.to_owned(),
            region: Some(region.to_owned()),
            ..S3Config::new("models")
        };
        let objects = |config: &S3Config| bucket_policy(config)["Statement"][0]["Resource"].clone();
        assert_eq!(
            objects(&config("/team/a/", "eu-central-1")),
            json!(["arn:aws:s3:::models/team/a/objects/*", "arn:aws:s3:::models/team/a/probe"])
        );
        assert_eq!(
            objects(&config("", "cn-north-1")),
            json!(["arn:aws-cn:s3:::models/objects/*", "arn:aws-cn:s3:::models/probe"])
        );
        assert_eq!(bucket_policy(&config("a", "x"))["Statement"][1]["Resource"], json!(["arn:aws:s3:::models"]));
    }
}
