//! The image service alone, for trying it with the `openstack` client:
//!
//! ```text
//! cargo run -p kilonova-image --example standalone -- /tmp/images 9292
//! openstack --os-auth-type admin_token --os-endpoint http://127.0.0.1:9292 --os-token demo:member,reader image list
//! ```
//!
//! A token is `project:role,role` and is believed, so this is no service for others.

use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

struct Believed;

#[async_trait]
impl TokenValidator for Believed {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (project, roles) = token.split_once(':').ok_or(AuthError::Invalid)?;
        Ok(Arc::new(Caller {
            user_id: project.to_owned(),
            project_id: Some(project.to_owned()),
            roles: roles.split(',').map(str::to_owned).collect(),
            ..Caller::default()
        }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the first argument is a folder")?);
    let port: u16 = arguments.next().as_deref().unwrap_or("9292").parse()?;
    std::fs::create_dir_all(&folder)?;
    let store =
        sql::Store::open(&format!("sqlite://{}", folder.join("image.db").display())).await?;
    let mut config = kilonova_image::Config::new(folder.join("images"));
    if let Some(limit) = arguments.next() {
        config.max_size = limit.parse()?;
    }
    let service = kilonova_image::Service::open(store, config, Arc::new(Believed)).await?;
    service.begin().await?;
    let listener = web::Listener::tcp("127.0.0.1", port).await?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopped.cancel();
    });
    let (kept, end) = (service.clone(), stop.clone());
    tokio::spawn(async move { kept.keep(end).await });
    web::serve(listener, service.router(), stop).await?;
    Ok(())
}
