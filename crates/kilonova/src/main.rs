//! `kilonova`: a whole private cloud in one binary.

mod arguments;
mod attached;
mod background;
mod certificates;
mod cloud;
mod config_file;
mod credentials;
mod desk;
mod down;
mod drives;
mod flavors;
mod fresh;
mod home;
mod hosts;
mod live_settings;
mod manage;
mod monitor;
mod notification_settings;
mod part;
mod peers;
mod place;
mod purge;
mod repairs;
mod roles;
mod service_tokens;
mod services;
mod serving;
mod settings;
mod supervisor;

use arguments::{Arguments, Command, Config, Db, Manage};
use clap::Parser;
use roles::Role;
use std::io::IsTerminal;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A command that ends prints what it did; what runs on tells its story.
    let usual = match arguments.command {
        Command::Down(_)
        | Command::Status(_)
        | Command::Config(_)
        | Command::Db(_)
        | Command::Manage(_) => "warn",
        _ => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KILONOVA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match std::env::var("KILONOVA_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().flatten_event(true).init(),
        _ => log.init(),
    }
    web::tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error)),
    };
    let done = match arguments.command {
        Command::Up(up) => runtime.block_on(supervisor::up(up)),
        Command::Control(_) => runtime.block_on(cloud::run()),
        Command::Host(_) => runtime.block_on(hosts::run()),
        Command::Config(Config::Check(of)) => settings::check(&of),
        Command::Config(Config::Show(of)) => settings::show(&of),
        Command::Down(at) => runtime.block_on(down::down(&at.home)),
        Command::Status(at) => home::status(&at.home),
        Command::Db(Db::Sync(of)) => runtime.block_on(roles::db_sync(&of)),
        Command::Manage(Manage::Task(wanted)) => runtime.block_on(repairs::task(&wanted)),
        Command::Manage(Manage::Audit { of, fix }) => runtime.block_on(repairs::audit(&of, fix)),
        Command::Manage(Manage::Purge(wanted)) => runtime.block_on(purge::purge(&wanted)),
        Command::Manage(Manage::Services(of)) => runtime.block_on(repairs::services(&of)),
        Command::Manage(what) => manage::manage(what),
        Command::Api(of) => runtime.block_on(roles::run(Role::Api, &of)),
        Command::Conductor(of) => runtime.block_on(roles::run(Role::Conductor, &of)),
        Command::Scheduler(of) => runtime.block_on(roles::run(Role::Scheduler, &of)),
        Command::Compute(of) => runtime.block_on(roles::run(Role::Compute, &of)),
        Command::NetworkAgent(of) => runtime.block_on(roles::run(Role::NetworkAgent, &of)),
        Command::Metadata(of) => runtime.block_on(roles::run(Role::Metadata, &of)),
        Command::Placement(of) => runtime.block_on(roles::run(Role::Placement, &of)),
        Command::Identity(of) => runtime.block_on(roles::run(Role::Identity, &of)),
        Command::Image(of) => runtime.block_on(roles::run(Role::Image, &of)),
        Command::Network(of) => runtime.block_on(roles::run(Role::Network, &of)),
        Command::Volume(of) => runtime.block_on(roles::run(Role::Volume, &of)),
        Command::KeyManager(of) => runtime.block_on(roles::run(Role::KeyManager, &of)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("kilonova: {error:#}");
    ExitCode::FAILURE
}
