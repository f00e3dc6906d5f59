//! The reference of `mysql-sink-upsert`: what one connection can do with prepared multi-row upserts and nothing else.
//! `upsert_ceiling PORT DATABASE FILE`: the rows of FILE (as `COPY … TO STDOUT` writes them) into table `orders`, 1,000 rows a statement
//! and 10,000 a transaction; no offsets, no fence, no decoding but of the text.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program for one machine's benchmark")]

use mysql_async::{Conn, OptsBuilder, Value, prelude::Queryable};

const COLUMNS: [&str; 10] =
    ["id", "customer", "amount", "paid", "score", "placed", "day", "status", "note", "payload"];
const STATEMENT_ROWS: usize = 1_000;
const TRANSACTION_STATEMENTS: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, database, file] = arguments.as_slice() else { panic!("upsert_ceiling PORT DATABASE FILE") };
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port.parse().unwrap())
        .user(Some("root"))
        .db_name(Some(database))
        .prefer_socket(false)
        .stmt_cache_size(0);
    let mut conn = Conn::new(options).await.unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let row = format!("({})", ["?"; COLUMNS.len()].join(", "));
    let set: Vec<String> = COLUMNS[1..].iter().map(|c| format!("{c} = new_row.{c}")).collect();
    let sql = |rows: usize| {
        let values = vec![row.as_str(); rows].join(", ");
        format!("INSERT INTO orders VALUES {values} AS new_row ON DUPLICATE KEY UPDATE {}", set.join(", "))
    };
    let whole = conn.prep(sql(STATEMENT_ROWS)).await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for transaction in lines.chunks(STATEMENT_ROWS * TRANSACTION_STATEMENTS) {
        conn.query_drop("START TRANSACTION").await.unwrap();
        for lines in transaction.chunks(STATEMENT_ROWS) {
            let values: Vec<Value> =
                lines.iter().flat_map(|line| line.split('\t').enumerate().map(value)).collect();
            if lines.len() == STATEMENT_ROWS {
                conn.exec_drop(&whole, values).await.unwrap();
            } else {
                let rest = conn.prep(sql(lines.len())).await.unwrap();
                conn.exec_drop(&rest, values).await.unwrap();
            }
        }
        conn.query_drop("COMMIT").await.unwrap();
    }
    conn.disconnect().await.unwrap();
}

fn value((column, text): (usize, &str)) -> Value {
    match column {
        0 | 1 | 3 => Value::Int(text.parse().unwrap()),
        4 => Value::Double(text.parse().unwrap()),
        _ => Value::Bytes(text.as_bytes().to_vec()),
    }
}
