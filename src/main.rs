//! stub
fn main() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let levels =
        rowstream::telemetry::logging::init(rowstream::telemetry::logging::LogFormat::Human, "info").unwrap();
    let file = std::env::args().last().unwrap();
    let config = rowstream::config::WorkerConfig::load(std::path::Path::new(&file)).unwrap();
    rt.block_on(rowstream::daemon::run(config, levels)).unwrap();
}
