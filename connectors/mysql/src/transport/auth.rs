//! The greeting and the answers to it; scrambles and RSA come from `mysql_common`.

use rowstream_api::ConnectorError;

use crate::wire::{Cursor, DecodeError};

/// What the server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The id of the connection.
    pub thread_id: u32,
    /// The challenge.
    pub nonce: Vec<u8>,
    /// What it can do.
    pub capabilities: u32,
    /// The plugin it would like.
    pub plugin: String,
}

/// `CLIENT_SSL`
pub const TLS: u32 = 0x800;
const LONG_PASSWORD: u32 = 0x1;
const LONG_FLAG: u32 = 0x4;
const PROTOCOL_41: u32 = 0x200;
const TRANSACTIONS: u32 = 0x2000;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
const CONNECT_ATTRIBUTES: u32 = 0x10_0000;
const PLUGIN_AUTH_LENENC: u32 = 0x20_0000;
/// utf8mb4_general_ci: known to every server.
const CHARSET: u8 = 45;
/// Longest packet that we would send.
const PACKET_BYTES: u32 = 64 << 20;

impl Greeting {
    /// Reads the greeting.
    ///
    /// # Errors
    /// Malformed bytes.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(packet, "the server's greeting");
        if cursor.u8()? != 10 {
            return Err(DecodeError::Malformed("the server's greeting"));
        }
        cursor.until_zero()?;
        let thread_id = cursor.u32()?;
        let mut nonce = cursor.take(8)?.to_vec();
        cursor.u8()?;
        let low = cursor.u16()?;
        cursor.take(3)?;
        let high = cursor.u16()?;
        let length = usize::from(cursor.u8()?);
        cursor.take(10)?;
        let more = cursor.take(length.saturating_sub(8).max(13).min(cursor.rest().len()))?;
        nonce.extend_from_slice(more.strip_suffix(&[0]).unwrap_or(more));
        let plugin = cursor.rest().split(|b| *b == 0).next().unwrap_or_default();
        Ok(Self {
            thread_id,
            nonce,
            capabilities: u32::from(high) << 16 | u32::from(low),
            plugin: String::from_utf8_lossy(plugin).into_owned(),
        })
    }
}

fn capabilities(tls: bool) -> u32 {
    LONG_PASSWORD
        | LONG_FLAG
        | PROTOCOL_41
        | TRANSACTIONS
        | SECURE_CONNECTION
        | PLUGIN_AUTH
        | CONNECT_ATTRIBUTES
        | PLUGIN_AUTH_LENENC
        | if tls { TLS } else { 0 }
}

/// The request to go on over TLS, and the beginning of the response.
#[must_use]
pub fn tls_request(tls: bool) -> Vec<u8> {
    let mut out = capabilities(tls).to_le_bytes().to_vec();
    out.extend_from_slice(&PACKET_BYTES.to_le_bytes());
    out.push(CHARSET);
    out.extend_from_slice(&[0; 23]);
    out
}

/// Who we are.
#[must_use]
pub fn response(user: &str, answer: &[u8], plugin: &str, tls: bool) -> Vec<u8> {
    let mut out = tls_request(tls);
    out.extend_from_slice(user.as_bytes());
    out.push(0);
    put_short(&mut out, answer);
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    let mut attributes = Vec::new();
    put_short(&mut attributes, b"program_name");
    put_short(&mut attributes, b"rowstream");
    put_short(&mut out, &attributes);
    out
}

/// A length below 251, and the bytes; longer ones do not occur here.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).unwrap_or(0));
    out.extend_from_slice(bytes);
}

/// The challenge of a plugin that the server switches to: 20 bytes and a zero, or 32 bytes of MariaDB's newer plugins, which may end in
/// one.
#[must_use]
pub fn nonce(data: &[u8]) -> &[u8] {
    if data.len() <= 21 { data.strip_suffix(&[0]).unwrap_or(data) } else { data }
}

/// The first answer of a plugin; `None` for one that is not supported. parsec begins with an empty one.
#[must_use]
pub fn answer(plugin: &str, nonce: &[u8], password: &str) -> Option<Vec<u8>> {
    use mysql_common::scramble;
    let password = password.as_bytes();
    match plugin {
        _ if password.is_empty() && matches!(plugin, "mysql_native_password" | "caching_sha2_password") => {
            Some(Vec::new())
        }
        "mysql_native_password" => scramble::scramble_native(nonce, password).map(Vec::from),
        "caching_sha2_password" => scramble::scramble_sha256(nonce, password).map(Vec::from),
        "client_ed25519" => Some(scramble::create_response_for_ed25519(password, nonce).to_vec()),
        "parsec" => Some(Vec::new()),
        _ => None,
    }
}

/// The answer to parsec's salt.
///
/// # Errors
/// Malformed bytes.
pub fn parsec(packet: &[u8], nonce: &[u8], password: &str) -> Result<Vec<u8>, DecodeError> {
    const WHAT: &str = "parsec's salt";
    /// Iterations are `1024 << factor`; MariaDB allows no more.
    const FACTOR_MAX: u8 = 3;
    let mut cursor = Cursor::new(packet.strip_prefix(&[1]).unwrap_or(packet), WHAT);
    let (algorithm, factor) = (cursor.u8()?, cursor.u8()?);
    let nonce = nonce.first_chunk::<32>().ok_or(DecodeError::Truncated(WHAT))?;
    if algorithm != b'P' || factor > FACTOR_MAX {
        return Err(DecodeError::Malformed(WHAT));
    }
    let iterations = 1024 << factor;
    Ok(mysql_common::scramble::create_response_for_parsec(
        password.as_bytes(),
        nonce,
        iterations,
        cursor.rest(),
    )
    .to_vec())
}

/// The password under the server's RSA key, for caching_sha2_password without TLS.
///
/// # Errors
/// What the server sent is no key.
pub fn under_rsa(key: &[u8], nonce: &[u8], password: &str) -> Result<Vec<u8>, ConnectorError> {
    let mut secret = password.as_bytes().to_vec();
    secret.push(0);
    for (byte, mask) in secret.iter_mut().zip(nonce.iter().cycle()) {
        *byte ^= mask;
    }
    // The library expects a well-formed key and panics on anything else.
    let key = key.to_vec();
    std::panic::catch_unwind(move || mysql_common::crypto::encrypt(&secret, &key)).map_err(|_| {
        ConnectorError::fatal("MYSQL_PROTOCOL", "the server's RSA key can't be read")
            .remedy("set connection.tls.mode to require or more")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_nonces_have_a_terminator() {
        let long = [[7; 31].as_slice(), &[0]].concat();
        assert_eq!(nonce(&long), long, "one in 256 of them ends in a zero");
        assert_eq!(nonce(&[[7; 20].as_slice(), &[0]].concat()), [7; 20]);
        assert_eq!(nonce(&[7; 20]), [7; 20]);
    }
}
