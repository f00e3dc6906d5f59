//! Character sets by the servers' names.
//!
//! The servers' latin1 is Windows-1252 with its five holes filled by control characters, which is exactly what the web's
//! windows-1252 is, so the bytes 0x81, 0x8D, 0x8F, 0x90 and 0x9D survive.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// How a text's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Charset {
    /// utf8mb4, utf8mb3, ascii.
    Utf8,
    /// No text at all.
    Binary,
    /// A charset with a table.
    Table(&'static Encoding),
    /// utf32.
    Utf32,
}

/// The bytes are not valid in the charset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText;

impl Charset {
    /// The charset of this name (`character_set_name` of information_schema); `None` for one that is not supported.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        use encoding_rs::{
            BIG5, EUC_JP, EUC_KR, GB18030, GBK, IBM866, ISO_8859_2, ISO_8859_7, ISO_8859_8, ISO_8859_13,
            KOI8_R, KOI8_U, MACINTOSH, SHIFT_JIS, UTF_16BE, UTF_16LE, WINDOWS_874, WINDOWS_1250,
            WINDOWS_1251, WINDOWS_1252, WINDOWS_1254, WINDOWS_1256, WINDOWS_1257,
        };
        Some(match name {
            "utf8mb4" | "utf8mb3" | "utf8" | "ascii" => Self::Utf8,
            "binary" => Self::Binary,
            "utf32" => Self::Utf32,
            "latin1" => Self::Table(WINDOWS_1252),
            "latin2" => Self::Table(ISO_8859_2),
            "latin5" => Self::Table(WINDOWS_1254),
            "latin7" => Self::Table(ISO_8859_13),
            "greek" => Self::Table(ISO_8859_7),
            "hebrew" => Self::Table(ISO_8859_8),
            "cp1250" => Self::Table(WINDOWS_1250),
            "cp1251" => Self::Table(WINDOWS_1251),
            "cp1256" => Self::Table(WINDOWS_1256),
            "cp1257" => Self::Table(WINDOWS_1257),
            "cp866" => Self::Table(IBM866),
            "koi8r" => Self::Table(KOI8_R),
            "koi8u" => Self::Table(KOI8_U),
            "macroman" => Self::Table(MACINTOSH),
            "tis620" => Self::Table(WINDOWS_874),
            "gbk" | "gb2312" => Self::Table(GBK),
            "gb18030" => Self::Table(GB18030),
            "big5" => Self::Table(BIG5),
            "sjis" | "cp932" => Self::Table(SHIFT_JIS),
            "ujis" | "eucjpms" => Self::Table(EUC_JP),
            "euckr" => Self::Table(EUC_KR),
            "ucs2" | "utf16" => Self::Table(UTF_16BE),
            "utf16le" => Self::Table(UTF_16LE),
            _ => return None,
        })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Binary => "binary",
            Self::Table(encoding) => encoding.name(),
            Self::Utf32 => "UTF-32",
        }
    }

    /// Reads a text. Borrows when the bytes are UTF-8 already.
    ///
    /// # Errors
    /// The bytes are not valid.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
        match self {
            Self::Utf8 | Self::Binary => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NotText),
            Self::Table(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes).ok_or(NotText)
            }
            Self::Utf32 => {
                let (chunks, rest) = bytes.as_chunks::<4>();
                let text = chunks.iter().map(|chunk| char::from_u32(u32::from_be_bytes(*chunk)));
                let text: Option<String> = text.collect();
                text.filter(|_| rest.is_empty()).map(Cow::Owned).ok_or(NotText)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_many_charsets() {
        let read = |name: &str, bytes: &[u8]| {
            Charset::of(name)
                .unwrap()
                .decode(bytes)
                .map(Cow::into_owned)
                .unwrap_or_else(|_| "wrong".to_owned())
        };
        assert_eq!(read("latin1", b"gr\xf6\xdfe \x80\x81"), "größe €\u{81}");
        assert_eq!(read("gbk", b"\xc4\xe3\xba\xc3"), "你好");
        assert_eq!(read("utf8mb4", "😀".as_bytes()), "😀");
        assert_eq!(read("utf16", b"\x00a\xd8\x3d\xde\x00"), "a😀");
        assert_eq!(read("utf32", b"\x00\x01\xf6\x00"), "😀");
        assert_eq!(read("utf8mb4", b"\xff"), "wrong");
        assert!(Charset::of("dec8").is_none());
    }
}
