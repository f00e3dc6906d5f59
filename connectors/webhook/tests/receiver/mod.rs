//! A receiver: a small HTTP/1.1 server that keeps everything it was sent and answers as the test's script says.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::Instant,
};

/// One request, as received.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) json: Value,
    /// 1 for the first request with this id.
    pub(crate) attempt: usize,
    pub(crate) at: Instant,
    /// What was answered; 0 while nothing was.
    pub(crate) answered: u16,
}

impl Delivery {
    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }
    pub(crate) fn offset(&self) -> i64 {
        self.json["offset"].as_i64().unwrap()
    }
    /// The key as JSON text, with the partition: the unit of order.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.json["partition"], self.json["key"])
    }
}

/// What the script answers.
#[derive(Clone)]
pub(crate) enum Reply {
    Status(u16),
    With(u16, &'static str, String),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and closes the connection.
    Drop,
    /// Answers 200 as if the connection could be used again, and closes it.
    OkThenClose,
    /// Answers 200 when that many requests are waiting here together.
    Meet(Arc<Barrier>),
    /// Answers 200 for each permit.
    Gate(Arc<Semaphore>),
}

type Script = dyn Fn(&Delivery) -> Reply + Send + Sync;

#[derive(Default)]
struct Log {
    deliveries: Vec<Delivery>,
    connections: usize,
    in_flight: BTreeMap<String, usize>,
    overlaps: usize,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start(script: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Delivery) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::<Mutex<Log>>::default();
        let mut server = JoinSet::new();
        server.spawn(accept(listener, log.clone(), Arc::new(script)));
        Self { address, log, _server: server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?from=rowstream", self.address)
    }
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.log.lock().unwrap().deliveries.clone()
    }
    /// Deliveries that were answered 2xx.
    pub(crate) fn accepted(&self) -> Vec<Delivery> {
        self.deliveries().into_iter().filter(|d| (200..300).contains(&d.answered)).collect()
    }
    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
    /// How often two requests of one key were in flight together.
    pub(crate) fn overlaps(&self) -> usize {
        self.log.lock().unwrap().overlaps
    }
}

async fn accept(listener: TcpListener, log: Arc<Mutex<Log>>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        log.lock().unwrap().connections += 1;
        let (log, script) = (log.clone(), script.clone());
        connections.spawn(async move { while_open(stream, &log, &*script).await });
    }
}

async fn while_open(stream: TcpStream, log: &Mutex<Log>, script: &Script) {
    let mut stream = BufReader::new(stream);
    while let Some(mut delivery) = read_request(&mut stream).await {
        let index = {
            let mut log = log.lock().unwrap();
            delivery.attempt = 1 + log.deliveries.iter().filter(|d| d.id() == delivery.id()).count();
            let in_flight = log.in_flight.entry(delivery.key()).or_default();
            *in_flight += 1;
            if *in_flight > 1 {
                log.overlaps += 1;
            }
            log.deliveries.push(delivery.clone());
            log.deliveries.len() - 1
        };
        let reply = script(&delivery);
        let open = answer(&mut stream, log, index, reply).await;
        if !open {
            return;
        }
    }
}

/// Marks the delivery as answered *before* it is: what the client knows, the log must know.
fn note(log: &Mutex<Log>, index: usize, status: u16) {
    let mut log = log.lock().unwrap();
    log.deliveries[index].answered = status;
    let key = log.deliveries[index].key();
    *log.in_flight.get_mut(&key).unwrap() -= 1;
}

async fn answer(stream: &mut BufReader<TcpStream>, log: &Mutex<Log>, index: usize, reply: Reply) -> bool {
    let (status, header, open) = match reply {
        Reply::Status(status) => (status, String::new(), true),
        Reply::With(status, name, value) => (status, format!("{name}: {value}\r\n"), true),
        Reply::Hang => {
            // The client gives up, which ends the connection.
            let gone = stream.read_u8().await.is_err();
            note(log, index, 0);
            assert!(gone);
            return false;
        }
        Reply::Drop => {
            note(log, index, 0);
            return false;
        }
        Reply::OkThenClose => (200, String::new(), false),
        Reply::Meet(barrier) => {
            barrier.wait().await;
            (200, String::new(), true)
        }
        Reply::Gate(gate) => {
            gate.acquire().await.unwrap().forget();
            (200, String::new(), true)
        }
    };
    note(log, index, status);
    let text = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 9\r\n{header}\r\nsecret me");
    stream.write_all(text.as_bytes()).await.is_ok() && open
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Delivery> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|&n| n > 0)?;
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("POST"));
    let path = words.next().unwrap().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|&n| n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).unwrap();
    let json = serde_json::from_str(&body).unwrap();
    Some(Delivery { path, headers, body, json, attempt: 0, at: Instant::now(), answered: 0 })
}
