//! Reaching a server: TLS in every mode, sockets, several hosts, every way to authenticate that the server has.

use mysql_async::prelude::Queryable;
use rowstream_api::{ConfigErrors, ConnectorError};
use rowstream_mysql::connection::{Connection, ConnectionConfig, Purpose};
use serde_json::{Value, json};

use crate::target::{Target, on_both, servers};

async fn connect(connection: Value) -> Result<Connection, ConnectorError> {
    let config: ConnectionConfig = serde_json::from_value(connection).unwrap();
    config.plan(&mut ConfigErrors::default()).unwrap().connect(Purpose::Write).await
}

#[tokio::test]
async fn tls_checks_as_much_as_its_mode_says() {
    on_both(async |mut target: Target| {
        let ca = target.text("SELECT @@ssl_ca").await;
        let other = servers().iter().find(|server| server.port != target.server.port).unwrap();
        let other_ca = ca.replace(&target.server.name, &other.name);
        let attempt = async |host: &str, mode: &str, ca: Option<&str>| {
            let mut connection = target.connection();
            connection["host"] = json!(host);
            connection["tls"] = json!({ "mode": mode, "ca_file": ca });
            let mut connected = connect(connection).await.map_err(|e| e.code)?;
            let cipher = "SHOW SESSION STATUS LIKE 'Ssl_cipher'";
            let cipher: Option<(String, String)> = connected.conn.query_first(cipher).await.unwrap();
            Ok::<bool, &str>(!cipher.unwrap().1.is_empty())
        };
        assert_eq!(attempt("127.0.0.1", "disable", None).await, Ok(false));
        assert_eq!(attempt("127.0.0.1", "prefer", None).await, Ok(true));
        assert_eq!(attempt("127.0.0.1", "require", None).await, Ok(true));
        // The server's certificate is for `localhost`, and signed by its own authority.
        assert_eq!(attempt("127.0.0.1", "verify-ca", Some(&ca)).await, Ok(true));
        assert_eq!(attempt("127.0.0.1", "verify-ca", Some(&other_ca)).await, Err("MYSQL_TLS"));
        assert_eq!(attempt("127.0.0.1", "verify-ca", None).await, Err("MYSQL_TLS"));
        assert_eq!(attempt("127.0.0.1", "verify-full", Some(&ca)).await, Err("MYSQL_TLS"));
        assert_eq!(attempt("localhost", "verify-full", Some(&ca)).await, Ok(true));
        assert_eq!(attempt("localhost", "verify-full", Some(&other_ca)).await, Err("MYSQL_TLS"));
        assert_eq!(attempt("localhost", "verify-full", Some("/no/such.pem")).await, Err("TLS_CONFIG"));
    })
    .await;
}

#[tokio::test]
async fn a_socket_or_the_first_of_several_hosts_that_answers() {
    on_both(async |mut target: Target| {
        let socket = target.text("SELECT @@socket").await;
        let connected = connect(json!({ "socket": socket, "user": "root" })).await.unwrap();
        assert_eq!(connected.server.is_mariadb(), target.server.mariadb);
        let hosts = format!("127.0.0.1:1,127.0.0.1:{}", target.server.port);
        let connected = connect(json!({ "host": hosts, "user": "root" })).await.unwrap();
        assert_eq!(connected.address.to_string(), format!("127.0.0.1:{}", target.server.port));
        let Err(error) = connect(json!({ "host": "127.0.0.1:1,127.0.0.1:2", "user": "root" })).await else {
            panic!("nobody listens there");
        };
        assert_eq!(error.code, "MYSQL_CONNECTION");
        assert!(
            error.message.contains("127.0.0.1:1 ") && error.message.contains("; connect to 127.0.0.1:2 ")
        );
    })
    .await;
}

#[tokio::test]
async fn every_authentication_with_and_without_tls() {
    on_both(async |mut target: Target| {
        let user = format!("a{}", std::process::id());
        let ways = if target.server.mariadb {
            let mut ways = vec!["VIA mysql_native_password USING PASSWORD('pässword')".to_owned()];
            for (library, way) in [("auth_ed25519", "ed25519"), ("auth_parsec", "parsec")] {
                let install = format!("INSTALL SONAME '{library}'");
                let known =
                    format!("SELECT plugin_name FROM information_schema.plugins WHERE plugin_name = '{way}'");
                let known = !target.texts(&known).await.is_empty();
                if known || target.db.query_drop(&install).await.is_ok() {
                    ways.push(format!("VIA {way} USING PASSWORD('pässword')"));
                } else {
                    eprintln!("SKIPPED {way}: the server has no {library}");
                }
            }
            ways
        } else {
            vec!["WITH caching_sha2_password BY 'pässword'".to_owned()]
        };
        for way in ways {
            target.sql(&format!("DROP USER IF EXISTS {user}; CREATE USER {user} IDENTIFIED {way}")).await;
            // The first time is not as the second: caching_sha2_password has a cache.
            for mode in ["disable", "disable", "require"] {
                let connection = json!({ "host": "127.0.0.1", "port": target.server.port, "user": user,
                                         "password": "pässword", "tls": { "mode": mode } });
                if let Err(error) = connect(connection).await {
                    panic!("{way}, TLS {mode}: {error}");
                }
            }
            let wrong = json!({ "host": "127.0.0.1", "port": target.server.port, "user": user, "password": "geheim" });
            let Err(error) = connect(wrong).await else { panic!("{way}: a wrong password was accepted") };
            assert_eq!(error.code, "MYSQL_AUTHENTICATION", "{way}");
            assert!(!format!("{error:?}").contains("geheim"));
        }
        target.sql(&format!("DROP USER {user}")).await;
    })
    .await;
}
