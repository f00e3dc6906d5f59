//! What can't work is refused before a row is written, in words that name the object and with the SQL that mends it.

use rowstream_api::{Class, ConnectorError, SinkConnector, ValueRef};
use rowstream_mysql::sink::MySqlSink;
use rowstream_testkit::records::{Owned, Topic, int, s, text};
use serde_json::{Value, json};

use crate::target::{Target, deliver, on_both};

fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("a", text())])
}

/// The error of a delivery into a target where nothing of it can go.
async fn refused(target: &Target, settings: Value, t: &mut Topic, row: Vec<Owned>) -> ConnectorError {
    let mut task = target.open(settings, &t.partition).await;
    let record = t.create(row);
    deliver(&mut task, vec![record]).await.unwrap_err()
}

#[tokio::test]
async fn tables_that_can_not_take_rows_and_offsets_together() {
    on_both(async |mut target: Target| {
        let database = target.database.clone();
        target.sql("CREATE TABLE items (id int PRIMARY KEY, a text) ENGINE = MyISAM").await;
        let error = refused(&target, json!({}), &mut items(), vec![n(1), s("a")]).await;
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_ENGINE"));
        assert_eq!(
            error.message,
            format!(
                "table `{database}.items` is of engine MyISAM, which has no transactions, so that rows and offsets \
                 could part"
            )
        );
        assert_eq!(error.remedy, Some(format!("ALTER TABLE `{database}`.`items` ENGINE = InnoDB;")));
        target.sql("DROP TABLE items; CREATE TABLE behind (id int PRIMARY KEY, a text)").await;
        target.sql("CREATE VIEW items AS SELECT * FROM behind").await;
        let error = refused(&target, json!({}), &mut items(), vec![n(1), s("a")]).await;
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_NO_TABLE"));
        assert_eq!(
            error.message,
            format!("`{database}.items` is no table but a VIEW, so that rows can't be written to it")
        );
    })
    .await;
}

#[tokio::test]
async fn what_the_policy_forbids_comes_with_the_sql_that_does_it() {
    on_both(async |target: Target| {
        let database = target.database.clone();
        let settings = json!({ "create_tables": false });
        let error = refused(&target, settings, &mut items(), vec![n(1), s("a")]).await;
        assert_eq!(
            (error.class, error.code, error.message),
            (
                Class::Config,
                "MYSQL_NO_TABLE",
                format!("table `{database}.items` does not exist and `create_tables` is false")
            )
        );
        let collation = if target.server.mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
        assert_eq!(
            error.remedy,
            Some(format!(
                "CREATE TABLE IF NOT EXISTS `{database}`.`items` (`id` INT NOT NULL, `a` LONGTEXT NULL, PRIMARY KEY \
                 (`id`)) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {collation};"
            ))
        );
    })
    .await;
}

#[tokio::test]
async fn names_that_the_server_does_not_have() {
    on_both(async |target: Target| {
        let database = target.database.clone();
        let mut t = Topic::new("items", 1, &[("id", int()), ("a", text()), ("A", text())]);
        let error = refused(&target, json!({}), &mut t, vec![n(1), s("a"), s("b")]).await;
        assert_eq!(
            (error.class, error.code, error.message),
            (
                Class::Config,
                "MYSQL_NAME",
                format!("two columns for table `{database}.items` are named `A` but for case")
            )
        );
        let long = "x".repeat(65);
        let mut t = Topic::new("items", 1, &[("id", int()), (&long, text())]);
        let error = refused(&target, json!({}), &mut t, vec![n(1), s("a")]).await;
        assert_eq!(error.code, "MYSQL_NAME");
        assert!(error.message.contains("expected 1 to 64 characters"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn users_without_the_rights_are_told_the_grants() {
    on_both(async |mut target: Target| {
        let (database, offsets) = (target.database.clone(), target.offsets());
        let user = format!("r{}", std::process::id());
        target
            .sql(&format!(
                "DROP USER IF EXISTS {user}; CREATE USER {user} IDENTIFIED BY 'secret';
                 GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {user}"
            ))
            .await;
        let mut connection = target.connection();
        connection["user"] = json!(user);
        connection["password"] = json!("secret");
        let settings = json!({ "connection": connection });
        let Err(error) = target.start_in_log(settings.clone(), "log-1").await else {
            panic!("started without a place for its offsets")
        };
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_PRIVILEGE"));
        assert!(error.message.starts_with(&format!("create the offset tables in database `{offsets}`: ")));
        let remedy = error.remedy.unwrap();
        assert!(remedy.contains(&format!("CREATE TABLE IF NOT EXISTS `{offsets}`.sink_fence")), "{remedy}");
        assert!(remedy.contains(&format!("GRANT SELECT, INSERT, UPDATE ON `{offsets}`.*")), "{remedy}");
        // With those it starts, and is told what creating tables takes.
        target.sql(&format!("CREATE DATABASE {offsets}; GRANT ALL ON {offsets}.* TO {user}")).await;
        let error = refused(&target, settings, &mut items(), vec![n(1), s("a")]).await;
        assert_eq!((error.class, error.code), (Class::Config, "MYSQL_PRIVILEGE"));
        assert!(error.message.starts_with(&format!("create table `{database}.items`: ")), "{error}");
        assert!(error.remedy.unwrap().starts_with("GRANT CREATE, ALTER, SELECT, INSERT, UPDATE, DELETE ON "));
        target.sql(&format!("DROP USER {user}")).await;
    })
    .await;
}

#[test]
fn settings_are_checked_all_at_once() {
    let problems = |config: Value| {
        let config = serde_json::from_value(config).unwrap();
        MySqlSink::validate(config).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    let told = problems(json!({
        "connection": { "user": " ", "tls": { "cert_file": "x" } },
        "table": "${source.tabel}", "offsets_database": "", "statement_timeout": "0s", "batch_rows_max": 0
    }));
    for field in [
        "connection.user",
        "connection.host",
        "connection.tls.cert_file",
        "table: unknown variable",
        "offsets_database",
        "statement_timeout",
        "batch_rows_max",
    ] {
        assert!(told.contains(field), "{field} in {told}");
    }
    let told = problems(json!({ "connection": { "user": "u", "host": "h" } }));
    assert_eq!(
        told,
        "connection.database: must not be empty, unless `table` names the database (`${source.schema}.${source.table}`)"
    );
    let named =
        json!({ "connection": { "user": "u", "host": "h" }, "table": "${source.schema}.${source.table}" });
    assert_eq!(problems(named), "");
}
