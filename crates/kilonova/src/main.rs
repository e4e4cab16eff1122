//! `kilonova`: a whole private cloud in one binary.

mod arguments;
mod cloud;
mod config_file;
mod credentials;
mod down;
mod flavors;
mod home;
mod hosts;
mod part;
mod service_tokens;
mod serving;
mod settings;
mod supervisor;

use arguments::{Arguments, Command, Config};
use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A command that ends prints what it did; what runs on tells its story.
    let usual = match arguments.command {
        Command::Down(_) | Command::Status(_) | Command::Config(_) => "warn",
        Command::Up(_) | Command::Control(_) | Command::Host(_) => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KILONOVA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
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
