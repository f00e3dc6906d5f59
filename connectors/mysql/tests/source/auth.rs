//! The binlog connection's own handshake: every way in that the servers have.

use rowstream_api::{Class, Secret};
use rowstream_mysql::transport::connection::BinlogConnection;
use serde_json::json;

use crate::common::{Database, MARIADB, MYSQL};

async fn who(
    db: &Database,
    user: &str,
    password: &str,
    tls: &str,
) -> Result<String, rowstream_api::ConnectorError> {
    let mut plan = db.plan(json!({})).connection;
    plan.config.user = user.to_owned();
    plan.config.password = Secret::new(password);
    plan.config.tls = serde_json::from_value(json!({ "mode": tls })).unwrap();
    let mut connection = BinlogConnection::connect(&plan).await?;
    let user = connection.query("SELECT CURRENT_USER()").await?.remove(0).remove(0).unwrap();
    let cipher = connection.query("SHOW STATUS LIKE 'Ssl_cipher'").await?.remove(0).remove(1).unwrap();
    connection.quit().await;
    Ok(format!("{} {}", user.split('@').next().unwrap(), u8::from(!cipher.is_empty())))
}

#[tokio::test]
async fn caching_sha2_with_and_without_tls() {
    let mut db = Database::new(MYSQL).await;
    let user = format!("u{}", &db.name[7..]);
    db.run(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'pä$$ word'")).await;
    // Without TLS and unknown to the server's cache: by its RSA key; then from the cache; then over TLS.
    assert_eq!(who(&db, &user, "pä$$ word", "disable").await.unwrap(), format!("{user} 0"));
    assert_eq!(who(&db, &user, "pä$$ word", "disable").await.unwrap(), format!("{user} 0"));
    db.run(&format!("ALTER USER {user}@'%' IDENTIFIED BY 'other'")).await;
    assert_eq!(who(&db, &user, "other", "require").await.unwrap(), format!("{user} 1"));
    assert_eq!(who(&db, "root", "", "prefer").await.unwrap(), "root 1");
    for tls in ["disable", "require"] {
        let error = who(&db, &user, "wrong", tls).await.err().unwrap();
        assert_eq!((error.code, error.class), ("MYSQL_AUTHENTICATION", Class::Config), "{error}");
        assert!(!error.message.contains("wrong"));
    }
    assert_eq!(who(&db, "root", "", "verify-full").await.err().unwrap().code, "MYSQL_TLS");
    db.run(&format!("DROP USER {user}@'%'")).await;
    db.remove().await;
}

#[tokio::test]
async fn the_plugins_of_mariadb() {
    let mut db = Database::new(MARIADB).await;
    for (plugin, library) in
        [("mysql_native_password", None), ("ed25519", Some("auth_ed25519")), ("parsec", Some("auth_parsec"))]
    {
        let user = format!("u{}_{}", &db.name[7..], &plugin[..3]);
        if let Some(library) = library {
            // Another test may have installed it.
            drop(
                mysql_async::prelude::Queryable::query_drop(
                    &mut db.sql,
                    format!("INSTALL SONAME '{library}'"),
                )
                .await,
            );
        }
        db.run(&format!("CREATE USER {user}@'%' IDENTIFIED VIA {plugin} USING PASSWORD('s3cret')")).await;
        for tls in ["disable", "require"] {
            let encrypted = u8::from(tls == "require");
            assert_eq!(
                who(&db, &user, "s3cret", tls).await.unwrap(),
                format!("{user} {encrypted}"),
                "{plugin}"
            );
        }
        assert_eq!(
            who(&db, &user, "wrong", "disable").await.err().unwrap().code,
            "MYSQL_AUTHENTICATION",
            "{plugin}"
        );
        db.run(&format!("DROP USER {user}@'%'")).await;
    }
    db.remove().await;
}
