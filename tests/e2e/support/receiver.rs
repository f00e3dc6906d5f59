//! A webhook receiver that keeps every request it was sent, and misbehaves as told.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

/// What was sent, and what was answered.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub status: u16,
}

impl Delivery {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// How the receiver answers the n-th request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Status(u16),
    /// Reads the request, keeps it, and closes without an answer.
    Drop,
    /// Reads the request, keeps it, and never answers.
    Hang,
}

type Script = dyn Fn(usize, &[u8]) -> Reply + Send + Sync;

/// Listens until it is dropped.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    script: Mutex<Arc<Script>>,
    closed: AtomicBool,
}

impl Receiver {
    pub fn start(script: impl Fn(usize, &[u8]) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            deliveries: Mutex::default(),
            script: Mutex::new(Arc::new(script)),
            closed: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&accepting)) else { continue };
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, shared }
    }

    /// Answers 200 to all.
    pub fn kind() -> Self {
        Self::start(|_, _| Reply::Status(200))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub fn reply_with(&self, script: impl Fn(usize, &[u8]) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// Everything so far, in order of arrival.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Distinct ids that were answered with 200.
    pub fn accepted(&self) -> usize {
        let deliveries = self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries
            .iter()
            .filter(|d| d.status == 200)
            .map(|d| &d.id)
            .collect::<std::collections::HashSet<_>>()
            .len()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _wakes_accept = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some((headers, body)) = read_request(&mut reader) {
        let reply = {
            let script = Arc::clone(&shared.script.lock().unwrap_or_else(PoisonError::into_inner));
            let mut deliveries = shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
            let reply = script(deliveries.len(), &body);
            let status = if let Reply::Status(status) = reply { status } else { 0 };
            let id = headers.get("webhook-id").cloned().unwrap_or_default();
            deliveries.push(Delivery { id, headers, body, status });
            reply
        };
        match reply {
            Reply::Status(status) => {
                let answer = format!("HTTP/1.1 {status} said\r\ncontent-length: 0\r\n\r\n");
                if writer.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Reply::Drop => return,
            Reply::Hang => {
                // Until the client gives up and closes.
                let _closed = reader.read(&mut [0]);
                return;
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(BTreeMap<String, String>, Vec<u8>)> {
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((headers, body))
}
