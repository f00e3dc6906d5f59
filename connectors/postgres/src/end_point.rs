//! `tls-server-end-point` (RFC 5929): the hash of the server's certificate that SCRAM binds the channel with. The hash
//! function is the one of the certificate's signature, SHA-256 in place of MD5 and SHA-1.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The hash; `None` for a signature algorithm without one (Ed25519) or a certificate that can't be read, in which case
/// the exchange goes on without channel binding.
#[must_use]
pub(crate) fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate_fields, _) = element(certificate)?;
    let (_, _, after_body) = element(certificate_fields)?;
    let (_, algorithm, _) = element(after_body)?;
    let (0x06, oid, _) = element(algorithm)? else { return None };
    match oid {
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04 | 0x05 | 0x0b]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => Some(Sha256::digest(certificate).to_vec()),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => Some(Sha384::digest(certificate).to_vec()),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04] => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// Tag, content and what follows, of the DER element at the front.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = bytes.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        rest = after;
        length = digits.iter().try_fold(0usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}
