//! Error code to class, in one table; every error of this crate comes through here.
//!
//! Both servers quote row values in the messages of data errors (`Duplicate entry 'x' for key 'u'`), so that such a message is
//! never passed on: what it names, a column or a key, is taken out of it, and the rest stays behind.

use mysql_async::{DriverError, Error, IoError, ServerError};
use rowstream_api::{Class, ConnectorError};

/// What a server's error means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Another transaction was in the way; the same transaction may go through when it is tried again.
    Conflict,
    /// The row's own fault: its message may quote values.
    Data,
    /// Anything else.
    Other,
}

/// Class and stable code of a server error, by its number (the numbers below 2000 mean the same on both servers).
#[must_use]
pub fn classify(code: u16, sqlstate: &str) -> (Class, &'static str, Kind) {
    use Class::{Config, Fatal, Transient};
    let other = |class, code| (class, code, Kind::Other);
    match code {
        1045 | 1130 | 1131 | 1251 | 1275 | 1524 | 1698 | 1862 | 1820 | 3118 | 3159 | 4151 => {
            other(Config, "MYSQL_AUTHENTICATION")
        }
        1044 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419 => other(Config, "MYSQL_PRIVILEGE"),
        1049 => other(Config, "MYSQL_NO_DATABASE"),
        1051 | 1146 => other(Config, "MYSQL_NO_TABLE"),
        1054 => other(Config, "MYSQL_NO_COLUMN"),
        1050 | 1060 | 1061 => other(Config, "MYSQL_DUPLICATE_OBJECT"),
        1064 | 1071 | 1074 | 1101 | 1115 | 1117 | 1118 | 1170 | 1193 | 1235 | 1273 => {
            other(Config, "MYSQL_UNSUPPORTED")
        }
        1153 => other(Config, "MYSQL_PACKET_TOO_LARGE"),
        1020 | 1205 | 1213 | 1412 | 1615 | 3572 => (Transient, "MYSQL_CONFLICT", Kind::Conflict),
        1022 | 1062 | 1169 | 1586 => (Fatal, "MYSQL_UNIQUE", Kind::Data),
        1264 | 1265 | 1292 | 1300 | 1366 | 1367 | 1406 | 1411 | 1416 | 1425 | 1426 | 1441 | 1525 | 1644
        | 1690 | 3140 | 3141 | 3156 | 3157 | 3815 | 3819 | 3854 | 3903 | 3988 | 4025 | 4038 => {
            (Fatal, "MYSQL_DATA", Kind::Data)
        }
        1048 | 1216 | 1217 | 1364 | 1451 | 1452 | 1557 | 1761 | 1762 => (Fatal, "MYSQL_DATA", Kind::Data),
        1290 | 1792 | 1836 | 3100 => other(Transient, "MYSQL_READ_ONLY"),
        1040 | 1203 | 1226 => other(Transient, "MYSQL_TOO_MANY_CONNECTIONS"),
        1021 | 1041 | 1114 | 1037 | 1038 => other(Transient, "MYSQL_RESOURCES"),
        1053 | 1077 | 1927 | 1317 | 3169 => other(Transient, "MYSQL_SHUTDOWN"),
        1969 | 3024 => other(Transient, "MYSQL_STATEMENT_TIMEOUT"),
        _ if matches!(sqlstate.get(..2), Some("22" | "23")) => (Fatal, "MYSQL_DATA", Kind::Data),
        // Unknown: retried on the bounded budget, visible in the status.
        _ => other(Transient, "MYSQL_ERROR"),
    }
}

/// Class, code and kind of a client error; `None` when it is not the server's word.
#[must_use]
pub fn kind(error: &Error) -> Option<Kind> {
    let Error::Server(server) = error else { return None };
    Some(classify(server.code, &server.state).2)
}

/// Turns a client error into ours. Never holds a row value or the password.
#[must_use]
pub fn from_mysql(error: Error) -> ConnectorError {
    match error {
        Error::Server(server) => {
            let (class, code, _) = classify(server.code, &server.state);
            let result = ConnectorError::new(class, code, describe(&server));
            match remedy(server.code) {
                Some(remedy) => result.remedy(remedy),
                None => result,
            }
        }
        Error::Driver(DriverError::UnknownAuthPlugin { name }) => ConnectorError::config(
            "MYSQL_AUTHENTICATION",
            format!("the server asks for the authentication plugin `{name}`, which is not supported"),
        )
        .remedy("give the user one of caching_sha2_password, mysql_native_password, ed25519 or parsec"),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            ConnectorError::config("MYSQL_TLS", "the server offers no TLS")
                .remedy("set up TLS on the server, or set connection.tls.mode to prefer or disable")
        }
        // Statements are bounded by half a packet, so that this is a single row.
        Error::Driver(DriverError::PacketTooLarge) => {
            let message = "a row is larger than the server's max_allowed_packet";
            let error = ConnectorError::config("MYSQL_PACKET_TOO_LARGE", message);
            error.remedy(remedy(1153).unwrap_or_default())
        }
        // These carry rows and packets; their own text does not print them.
        Error::Driver(driver) => ConnectorError::transient("MYSQL_CONNECTION", driver.to_string()),
        Error::Io(IoError::Tls(tls)) => ConnectorError::config("MYSQL_TLS", tls.to_string()),
        Error::Io(IoError::Io(io)) if is_certificate_error(&io) => {
            ConnectorError::config("MYSQL_TLS", io.to_string()).remedy(
                "check connection.tls.ca_file and the host name, or choose another connection.tls.mode",
            )
        }
        Error::Io(IoError::Io(io)) => ConnectorError::transient("MYSQL_CONNECTION", io.to_string()),
        Error::Other(other) => ConnectorError::transient("MYSQL_CONNECTION", other.to_string()),
        Error::Url(_) => ConnectorError::config("MYSQL_CONNECTION", "the connection's settings are invalid"),
    }
}

fn is_certificate_error(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// What the server said, without values.
fn describe(error: &ServerError) -> String {
    let (code, state) = (error.code, &error.state);
    match classify(code, state).2 {
        Kind::Conflict | Kind::Other => {
            format!("{} (error {code}, SQLSTATE {state})", error.message.lines().next().unwrap_or_default())
        }
        Kind::Data => format!("{} (error {code}, SQLSTATE {state}{})", what(code), named(error)),
    }
}

fn remedy(code: u16) -> Option<&'static str> {
    match code {
        1045 | 1698 => {
            Some("check connection.user and connection.password, and that the user may connect from here")
        }
        1153 => {
            Some("raise max_allowed_packet on the server, e.g. SET PERSIST max_allowed_packet = 67108864;")
        }
        1290 | 1836 => Some("list the writable server in connection.host"),
        _ => None,
    }
}

/// A data error's meaning, in our own words.
#[must_use]
pub fn what(code: u16) -> &'static str {
    match code {
        1022 | 1062 | 1169 | 1586 => "another row has the same unique value",
        1048 | 1364 => "a column that must not be null is null",
        1216 | 1217 | 1451 | 1452 | 1557 | 1761 | 1762 => "a foreign key is violated",
        3819 | 4025 => "a check constraint is violated",
        1406 => "a value is longer than its column allows",
        1264 | 1690 => "a number is out of its column's range",
        1292 | 1411 | 1441 => "a date or time is invalid or out of range",
        1300 | 1366 | 1977 | 3854 | 3988 => "a text is not valid for its column or its character set",
        3140 | 3141 | 3156 | 3157 | 4038 => "a text is not valid JSON",
        1265 | 1367 => "a value is not one of its column's type",
        1644 => "a trigger of the target raised an error",
        _ => "the data is not valid for the table",
    }
}

/// `, column `x`` or `, key `x``, as far as the message tells. The value stands before the name, so that the last
/// occurrence of the words is the server's own, whatever the value holds.
#[must_use]
pub fn named(error: &ServerError) -> String {
    let behind = |words: &str| error.message.rsplit_once(words).map(|(_, name)| name);
    let unquoted = |text: &str| -> String {
        let text = text.split(" at row ").next().unwrap_or_default();
        let last = text.rsplit('.').next().unwrap_or_default();
        last.trim_matches(|c| matches!(c, '\'' | '`' | '"' | ' ')).to_owned()
    };
    match error.code {
        1062 | 1586 => behind(" for key ").map(|name| format!(", key `{}`", unquoted(name))),
        1264 | 1265 | 1366 | 1292 | 1406 => {
            behind(" for column ").map(|name| format!(", column `{}`", unquoted(name)))
        }
        _ => None,
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16, state: &str, message: &str) -> ConnectorError {
        let (message, state) = (message.to_owned(), state.to_owned());
        from_mysql(Error::Server(ServerError { code, message, state }))
    }

    #[test]
    fn messages_of_data_errors_name_objects_and_never_values() {
        let error = server(1062, "23000", "Duplicate entry 'secret for key 'x'' for key 'orders.email'");
        assert_eq!(
            error.to_string(),
            "another row has the same unique value (error 1062, SQLSTATE 23000, key `email`)"
        );
        let error = server(
            1366,
            "22007",
            "Incorrect integer value: 'secret' for column `shop`.`orders`.`n` at row 1",
        );
        assert!(
            error.to_string().ends_with("column `n`)") && !error.to_string().contains("secret"),
            "{error}"
        );
        assert!(!server(1644, "45000", "value secret refused").to_string().contains("secret"));
    }

    #[test]
    fn classes_follow_who_can_mend_it() {
        assert_eq!(server(1045, "28000", "Access denied").class, Class::Config);
        assert_eq!(server(1213, "40001", "Deadlock found").class, Class::Transient);
        assert_eq!(server(1064, "42000", "syntax").class, Class::Config);
        assert_eq!(server(9999, "HY000", "new").class, Class::Transient);
        assert_eq!(classify(1205, "HY000").2, Kind::Conflict);
        assert_eq!(classify(9999, "22001").2, Kind::Data);
    }
}
