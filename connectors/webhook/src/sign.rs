//! Ids and signatures.
//!
//! The id of a delivery is a hash of the record's place in the log and of nothing else, so every delivery of a
//! record, by whichever process and however late, carries the same id, and two records never share one. Each part is
//! hashed behind its length, so that no two places read as the same bytes.
//!
//! The signature is [Standard Webhooks](https://www.standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`,
//! one `v1,<base64>` per secret, separated by spaces. A receiver that knows any one of the secrets can verify it,
//! which is what makes rotation possible without a gap.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use rowstream_api::RecordId;
use sha2::{Digest, Sha256};

/// A secret, ready to sign with.
#[derive(Clone)]
pub(crate) struct SigningKey(Hmac<Sha256>);

/// The lengths that Standard Webhooks allows, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

impl SigningKey {
    /// Reads `whsec_<base64>`. The error never repeats the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected `whsec_` and 24 to 64 bytes in base64";
        let encoded = text
            .trim()
            .strip_prefix("whsec_")
            .ok_or_else(|| format!("{expected}; the prefix `whsec_` is missing"))?;
        let bytes = STANDARD.decode(encoded).map_err(|_| format!("{expected}; this is not base64"))?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(format!("{expected}; this secret has {}", bytes.len()));
        }
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| expected.to_owned())
    }
}

/// The `webhook-id` of a record: `msg_` and 32 hexadecimal digits.
pub(crate) fn webhook_id(log_id: &str, record: &RecordId) -> String {
    let topic = &record.partition.topic;
    let mut hash = Sha256::new();
    for part in [log_id.as_bytes(), topic.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(record.partition.partition.to_be_bytes());
    hash.update(record.offset.to_be_bytes());
    let mut id = String::with_capacity(4 + 32);
    id.push_str("msg_");
    for byte in hash.finalize().iter().take(16) {
        for nibble in [byte >> 4, byte & 0xf] {
            id.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    id
}

/// The `webhook-signature` of a request; `None` when there are no keys.
pub(crate) fn signature(keys: &[SigningKey], id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
    if keys.is_empty() {
        return None;
    }
    let signatures: Vec<String> = keys
        .iter()
        .map(|SigningKey(mac)| {
            let mut mac = mac.clone();
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                mac.update(part);
            }
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    Some(signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use rowstream_api::TopicPartition;

    use super::*;

    fn place(topic: &str, partition: u32, offset: i64) -> RecordId {
        RecordId { partition: TopicPartition::new(topic, partition), offset }
    }

    /// The example of the Standard Webhooks specification and its reference libraries.
    #[test]
    fn the_specifications_own_example_signs_as_published() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            signature(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn ids_are_stable_and_differ_with_every_part_of_the_place() {
        let id = webhook_id("log-1", &place("shop.public.orders", 0, 42));
        assert_eq!(id, webhook_id("log-1", &place("shop.public.orders", 0, 42)));
        assert!(id.starts_with("msg_") && id.len() == 36);
        let others = [
            webhook_id("log-2", &place("shop.public.orders", 0, 42)),
            webhook_id("log-1s", &place("hop.public.orders", 0, 42)),
            webhook_id("log-1", &place("shop.public.order", 0, 42)),
            webhook_id("log-1", &place("shop.public.orders", 1, 42)),
            webhook_id("log-1", &place("shop.public.orders", 0, 43)),
        ];
        assert!(!others.contains(&id));
    }

    #[test]
    fn a_bad_secret_is_explained_and_never_repeated() {
        for (text, reason) in
            [("hunter2", "prefix"), ("whsec_***", "not base64"), ("whsec_c2hvcnQ=", "this secret has 5")]
        {
            let error = SigningKey::parse(text).err().unwrap();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("c2hvcnQ"));
        }
    }
}
