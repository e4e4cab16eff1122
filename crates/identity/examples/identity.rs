//! The identity service alone: `cargo run -p kilonova-identity --example identity -- 127.0.0.1 5000 /tmp/identity secret`
//!
//! Serves a fresh cloud's users, projects and roles from a folder of its own; the password is that of `admin`, and
//! of `demo`.

use kilonova_identity::{Bootstrap, Config, Endpoint, Service};
use std::path::Path;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, port, folder, password] = arguments.as_slice() else {
        return Err("arguments: address port folder password".into());
    };
    std::fs::create_dir_all(folder)?;
    let database = Path::new(folder).canonicalize()?.join("identity.db");
    let store = sql::Store::open(&format!("sqlite://{}", database.display())).await?;
    let service = Service::open(store, Config::new(Path::new(folder).join("keys"))).await?;
    let url = format!("http://{address}:{port}/v3");
    let keystone = Endpoint {
        service_type: "identity".to_owned(),
        service_name: "keystone".to_owned(),
        public: url.clone(),
        internal: url.clone(),
        admin: Some(url),
    };
    let cloud = Bootstrap {
        admin_password: password.clone(),
        demo_password: Some(password.clone()),
        region: "RegionOne".to_owned(),
        endpoints: vec![keystone],
        service_users: Vec::new(),
    };
    service.bootstrap(&cloud).await?;
    let listener = web::Listener::tcp(address, port.parse()?).await?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopping.cancel();
    });
    web::serve(listener, service.router(), stop).await?;
    Ok(())
}
