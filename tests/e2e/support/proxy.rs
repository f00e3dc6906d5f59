//! A network that can be cut, held and slowed: a TCP proxy between a worker and its broker.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::runtime;

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Each piece takes as long, both ways.
    Slow(Duration),
    /// Nothing comes through; connections stay.
    Held,
    /// What the worker says arrives, the broker's answers do not.
    Mute,
    /// Connections end, and new ones end at once.
    Cut,
}

/// Ends with all its connections when it is dropped.
pub struct Proxy {
    weather: watch::Sender<Weather>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// From the first address to the second.
    pub fn start((from, to): (SocketAddr, SocketAddr)) -> Self {
        let (weather, seen) = watch::channel(Weather::Fair);
        let listener = runtime().block_on(TcpListener::bind(from)).unwrap_or_else(|e| panic!("{from}: {e}"));
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept(listener, to, seen), runtime().handle());
        Self { weather, tasks }
    }

    pub fn becomes(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        if let Ok((worker, _)) = accepted
            && *weather.borrow() != Weather::Cut
        {
            connections.spawn(connection(worker, to, weather.clone()));
        }
    }
}

/// Ends when either side does, or with a cut.
async fn connection(worker: TcpStream, to: SocketAddr, weather: watch::Receiver<Weather>) {
    let Ok(broker) = TcpStream::connect(to).await else { return };
    // Nothing is delayed that is not meant to be; a socket that refuses this is as good.
    let _best_effort = (worker.set_nodelay(true), broker.set_nodelay(true));
    let ((worker_in, worker_out), (broker_in, broker_out)) = (worker.into_split(), broker.into_split());
    let mut cut = weather.clone();
    tokio::select! {
        () = pump(worker_in, broker_out, weather.clone(), |now| now == Weather::Held) => {}
        () = pump(broker_in, worker_out, weather, |now| matches!(now, Weather::Held | Weather::Mute)) => {}
        _ = cut.wait_for(|now| *now == Weather::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    held: fn(Weather) -> bool,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        // Copied out: the guard of a borrow must not be held while we wait.
        let now = *weather.borrow();
        if let Weather::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|now| !held(*now)).await.is_err() || to.write_all(&piece[..length]).await.is_err()
        {
            return;
        }
    }
}
