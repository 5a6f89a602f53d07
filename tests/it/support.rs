//! The language of the tests: lines on which things are said and heard, messages as they stand on the wire, a gateway
//! in a world of its own, and the real program.

mod authority;
mod client_conn;
mod connect_proxy;
mod held;
mod logged;
mod message;
mod program;
mod requests;
mod world;

use std::io::Write as _;
use std::process::{Command, Stdio};

pub(crate) use authority::{Authority, trusting};
pub(crate) use client_conn::ClientConn;
pub(crate) use connect_proxy::{ConnectProxy, read_head};
pub(crate) use held::HeldUpstream;
pub(crate) use logged::Logged;
pub(crate) use message::{Framing, Message};
pub(crate) use program::{Program, RunningSandbox, Scratch, call, connect, eventually};
pub(crate) use requests::{
    get, head_and_body, ids, post, receipt, receipt_in_query, receipt_of, text,
};
pub(crate) use world::{Stage, World, at_rest, counted, gateway_with, stream};

/// Runs a command of the program that ends by itself, and returns exit code, stdout and stderr.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    run_with_input(args, b"")
}

/// The same, with this standard input.
pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"));
    forget_proxies(&mut command);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // What is too long is not read to its end.
    stdin.write_all(input).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Removes the proxies of this machine from the environment of a program.
fn forget_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
}
