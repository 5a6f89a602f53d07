//! The command line: a mistake is reported with its place, and each exit code has one meaning.

use std::fs::File;
use std::io::{PipeWriter, Write as _, pipe};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::support::{
    HeldUpstream, Message, Program, Scratch, call, connect, eventually, get, run, run_with_input,
};

#[test]
fn check_tells_every_mistake_with_its_line() {
    let scratch = Scratch::new();
    let file = scratch.file(
        "wrong.toml",
        "[server]\nlisten = \"nowhere\"\nmax_headers = 0\n\n[batch]\nwindow = \"50 parsecs\"\nwindo = \"1s\"\n\n\
         [limit]\nrate = -1\nburst = \"many\"\n\n[upstrem]\nurl = \"http://x\"\n\n[[limit.class]]\nname = \"a\"\n",
    );
    let (code, stdout, stderr) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(stdout, "");
    for (line, key) in [
        (2, "server.listen"),
        (3, "server.max_headers"),
        (6, "batch.window"),
        (7, "batch.windo"),
        (10, "limit.rate"),
        (11, "limit.burst"),
        (13, "upstrem"),
        (16, "limit.class"),
    ] {
        let place = format!("wrong.toml:{line}");
        let is_named = stderr
            .lines()
            .any(|line| line.contains(&place) && line.contains(key));
        assert!(is_named, "line {line}: {key} is not in\n{stderr}");
    }
}

#[test]
fn check_prints_the_effective_settings() {
    let scratch = Scratch::new();
    let file = scratch.file("right.toml", "[limit]\nrate = 3.5\nburst = 7\n");
    let (code, stdout, stderr) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(stdout.contains("rate = 3.5"), "{stdout}");
    assert!(stdout.contains("window = \"50ms\""), "{stdout}");
}

#[test]
fn check_of_a_file_that_is_not_there() {
    let (code, _, stderr) = run(&["check", "--config", "/nonexistent/gateway.toml"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("/nonexistent/gateway.toml"), "{stderr}");
}

#[test]
fn serve_with_a_bad_file_exits_2() {
    let scratch = Scratch::new();
    for (text, word) in [
        ("[limit]\nrat = 3\n", "rat"),
        ("[limit\n", "bad.toml"),
        ("[batch]\nwindow = \"5s\"\n", "window"),
    ] {
        let file = scratch.file("bad.toml", text);
        let (code, _, stderr) = run(&["serve", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 2, "{stderr}");
        assert!(
            stderr.contains("bad.toml") && stderr.contains(word),
            "{stderr}"
        );
    }
}

#[test]
fn wrong_flags_and_variables_exit_2() {
    for args in [
        &["serve", "--rate", "fast"][..],
        &["serve", "--nonsense"],
        &["frobnicate"],
        &["check", "--rate", "fast"],
        &["serve", "--upstream", "ftp://x"],
    ] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
        .env("WAWP_GATEWAY_LIMIT__RTE", "5")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("WAWP_GATEWAY_LIMIT__RTE"), "{stderr}");
}

/// Runs the program with its outputs going elsewhere; what is taken comes back.
fn run_into(args: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
        .args(args)
        .stdout(stdout)
        .stderr(stderr)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), stderr)
}

const RECEIPT: &str = "POST /v2/send/seen?instance_id=123&access_token=token-1 HTTP/1.1\nHost: gateway.test\n\
    Accept-Language: de\n\n{\"chatId\":\"1@c.us\",\"messageIds\":[\"false_1@c.us_A\"]}\n";

#[test]
fn explain_names_what_keeps_two_receipts_apart() {
    let scratch = Scratch::new();
    let one = scratch.file("one.http", RECEIPT);
    let other = scratch.file("other.http", &RECEIPT.replace(": de", ": en"));
    let settings = scratch.file(
        "ignore.toml",
        "[batch]\nignore_headers = [\"accept-language\"]\n",
    );
    let (one, other, settings) = (
        one.to_str().unwrap(),
        other.to_str().unwrap(),
        settings.to_str().unwrap(),
    );
    let (code, stdout, stderr) = run(&["explain", one, other]);
    assert_eq!((code, &*stderr), (0, ""));
    let apart = "They differ in:\n  header accept-language        de | en\n";
    assert!(stdout.ends_with(apart), "{stdout}");
    assert!(!stdout.contains("token-1"), "{stdout}");
    let (code, stdout, stderr) = run(&["explain", "--config", settings, one, other]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(stdout.contains("Requests 1 and 2 merge"), "{stdout}");
}

#[test]
fn explain_reads_the_standard_input() {
    let explain = |args: &[&str], input: &str| {
        run_with_input(&[&["explain"], args].concat(), input.as_bytes())
    };
    for args in [&[][..], &["-"]] {
        let (code, stdout, stderr) = explain(args, RECEIPT);
        assert_eq!((code, &*stderr), (0, ""));
        let read = "Request 1 (standard input)\n  result        a receipt of 1 id;";
        assert!(stdout.starts_with(read), "{stdout}");
    }
    let (code, stdout, stderr) = explain(&[], &RECEIPT.replace("Accept-Language", "Bad Name"));
    assert_eq!((code, &*stdout), (2, ""));
    let message = "standard input, line 3: no header: a name, a colon and a value";
    assert!(stderr.contains(message), "{stderr}");
    assert!(!stderr.contains("token-1"), "{stderr}");
}

/// A pipe whose reader has gone.
fn unread() -> PipeWriter {
    pipe().unwrap().1
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_stdout_that_is_closed_or_full_stops_no_command() {
    let scratch = Scratch::new();
    let settings = scratch.file("right.toml", "[limit]\nrate = 3.5\nburst = 7\n");
    let log = scratch.file(
        "log",
        "h - - [25/Nov/2026:06:45:01 +0000] \"POST /v2/send/text?instance_id=1 HTTP/1.1\" 201 1\n",
    );
    let request = scratch.file("one.http", RECEIPT);
    for args in [
        &["check", "--config", settings.to_str().unwrap()][..],
        &["estimate", log.to_str().unwrap()],
        &["explain", request.to_str().unwrap()],
        &["man"],
        &["init"],
        &["completions", "bash"],
    ] {
        let closed = run_into(args, unread(), Stdio::piped());
        assert_eq!(closed, (0, String::new()), "{args:?}");
        let (code, stderr) = run_into(args, full(), Stdio::piped());
        assert_eq!(code, 1, "{args:?}: {stderr}");
        assert!(
            stderr.lines().count() == 1 && stderr.contains("cannot write to stdout"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn a_stderr_that_is_closed_or_full_stops_no_command() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (args, code) in [
        (&["check", "--config", "/nonexistent/gateway.toml"][..], 2),
        (&["estimate", "/nonexistent/log"], 2),
        (&["explain", "/nonexistent/one.http"], 2),
        (&["frobnicate"], 2),
        (&["sandbox", "--listen", &address], 1),
    ] {
        assert_eq!(run_into(args, Stdio::null(), unread()).0, code, "{args:?}");
        assert_eq!(run_into(args, Stdio::null(), full()).0, code, "{args:?}");
    }
}

#[test]
fn a_gateway_whose_log_cannot_be_written_serves() {
    // The socket is handed on as systemd does it: nothing else tells its address.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let program = format!(
        "exec 3<&0 </dev/null; LISTEN_FDS=1 exec {} serve --admin 127.0.0.2:0",
        env!("CARGO_BIN_EXE_wawp-gateway")
    );
    let mut child = Command::new("sh")
        .args(["-c", &program])
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .stderr(full())
        .spawn()
        .unwrap();
    let request = "GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n";
    let response = Message::response(&call(address, request), "GET");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(response.field("proxy-status").is_some());
}

#[test]
fn a_mistake_in_what_is_handed_over_names_it() {
    let (code, _, stderr) = run(&["demo", "--access-log", "/nonexistent/log"]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("--access-log: /nonexistent/log: "),
        "{stderr}"
    );
    let output = Command::new("sh")
        .args(["-c", "exec 3</dev/null; LISTEN_FDS=1 exec \"$0\" serve"])
        .arg(env!("CARGO_BIN_EXE_wawp-gateway"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("LISTEN_FDS: fd 3 is not a socket; listening TCP sockets are expected"),
        "{stderr}"
    );
}

#[test]
fn a_demo_of_several_gateways_says_that_it_needs_redis_server() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
        .args(["demo", "--replicas", "3"])
        .env("PATH", "")
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("needs redis-server") && stderr.contains("apt-get install redis-server"),
        "{stderr}"
    );
    let left: Vec<_> = directory.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_port_in_use_is_told_by_its_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, setting) in [("--listen", "server.listen"), ("--admin", "server.admin")] {
        let other = if flag == "--listen" {
            "--admin"
        } else {
            "--listen"
        };
        let (code, stdout, stderr) = run(&["serve", flag, &address, other, "127.0.0.2:0"]);
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(stdout, "");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains(setting) && last.contains(&address) && last.contains("in use"),
            "{stderr}"
        );
    }
}

#[test]
fn a_certificate_that_is_not_there_is_told() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.2:0"])
        .env("WAWP_GATEWAY_SERVER__TLS__CERT", "/nonexistent/cert.pem")
        .env("WAWP_GATEWAY_SERVER__TLS__KEY", "/nonexistent/key.pem")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{stderr}");
    assert!(stderr.contains("/nonexistent/cert.pem"), "{stderr}");
}

#[test]
fn help_and_version() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for word in [
        "--config",
        "--listen",
        "--upstream",
        "check",
        "sandbox",
        "demo",
    ] {
        assert!(stdout.contains(word), "{word}");
    }
    let fits = stdout.lines().all(|line| line.chars().count() <= 80);
    assert!(stdout.lines().count() <= 24 && fits, "one screen: {stdout}");
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")));
}

/// Hands something to a program, and says whether that took it without a word.
fn takes(program: &str, args: &[&str], text: &str) {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{program} {args:?}: {stderr}"
    );
}

#[test]
fn completions_are_shell_that_knows_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, stderr) = run(&["completions", shell]);
        assert_eq!((code, &*stderr), (0, ""), "{shell}");
        for word in [
            "serve", "check", "sandbox", "demo", "upstream", "latency", "man",
        ] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            takes("bash", &["-n"], &stdout);
        }
    }
    assert_eq!(run(&["completions", "cmd"]).0, 2);
}

#[test]
fn health_is_the_exit_code() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve_with(upstream.address, &[], &[]);
    let admin = gateway.admin.to_string();
    let ask = || run(&["health", "--admin", &admin]);
    assert_eq!(ask(), (0, String::new(), String::new()));
    // The request that the upstream holds keeps the drain open.
    let held = connect(gateway.address);
    (&held)
        .write_all(get("/v2/chats?instance_id=1").as_bytes())
        .unwrap();
    eventually("the request is at the upstream", || {
        !upstream.requests().is_empty()
    });
    gateway.signal("TERM");
    eventually("it is not healthy during a drain", || ask().0 == 1);
    let (_, _, stderr) = ask();
    assert!(stderr.contains("503"), "{stderr}");
    upstream.responses();
    assert_eq!(gateway.ends().0, 0);
    let (code, _, stderr) = ask();
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&admin) && stderr.contains("refused"),
        "{stderr}"
    );
}

#[test]
fn health_asks_where_the_settings_say() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve_with(upstream.address, &[], &[]);
    let scratch = Scratch::new();
    let settings =
        |admin: &str| scratch.file("g.toml", &format!("[server]\nadmin = \"{admin}\"\n"));
    let file = settings(&gateway.admin.to_string());
    let ask = || run(&["health", "--config", file.to_str().unwrap()]).0;
    assert_eq!(ask(), 0);
    settings(&gateway.address.to_string());
    assert_eq!(ask(), 1, "another server responds");
    settings("nowhere");
    assert_eq!(ask(), 1, "container engines reserve other codes");
}

#[test]
fn the_manual_tells_every_command_and_flag() {
    let (code, stdout, stderr) = run(&["man"]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(stdout.contains(".TH wawp"), "{stdout}");
    for word in [
        "SANDBOX",
        "CHECK",
        "DEMO",
        "COMPLETIONS",
        "\\-\\-latency",
        "\\-\\-upstream",
        "WAWP_GATEWAY_",
        "HEALTH",
        ".SH SYNOPSIS",
        ".SH SETTINGS",
        ".SS [[limit.class]]",
        "\\fBmax_wait\\fR = \"4s\"\n",
        ".SH FILES",
        ".SH ENVIRONMENT",
        ".SH SIGNALS",
        ".SH \"EXIT STATUS\"",
        ".SH EXAMPLES",
    ] {
        assert!(stdout.contains(word), "{word} is not in {stdout}");
    }
}

#[test]
fn settings_are_read_again_on_sighup() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", "[limit]\nheaders = false\n");
    let gateway = Program::serve_with(upstream.address, &[], &["--config", file.to_str().unwrap()]);
    let ask = |closing: &str| {
        let request =
            get("/v2/chats?instance_id=1").replace("\r\n\r\n", &format!("\r\n{closing}\r\n\r\n"));
        Message::response(&call(gateway.address, request), "GET")
    };
    assert_eq!(ask("Connection: close").field("ratelimit"), None);
    scratch.file("gateway.toml", "[limit]\nheaders = true\n");
    gateway.signal("HUP");
    eventually("the new settings are in force", || {
        ask("Connection: close").field("ratelimit").is_some()
    });
    scratch.file("gateway.toml", "[limit]\nheader = false\n");
    gateway.signal("HUP");
    eventually("the mistake is logged", || {
        gateway.said().contains("limit.header")
    });
    assert!(ask("Connection: close").field("ratelimit").is_some());
    gateway.signal("TERM");
    assert_eq!(gateway.ends().0, 0);
}

/// Runs the program under this variable.
fn run_under(name: &str, value: &str, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_wawp-gateway"))
        .args(args)
        .env(name, value)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, text(output.stdout), text(output.stderr))
}

#[test]
fn check_prints_the_commented_defaults() {
    let (code, stdout, stderr) = run(&["check", "--defaults"]);
    assert_eq!((code, &*stderr), (0, ""));
    assert_eq!(stdout, wawp_gateway::config::DEFAULTS);
    // What is printed is a settings file.
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &stdout);
    assert_eq!(run(&["check", "--config", file.to_str().unwrap()]).0, 0);
}

#[test]
fn a_variable_names_the_settings_file_and_a_flag_another() {
    let scratch = Scratch::new();
    let file = scratch.file("variable.toml", "[limit]\nmax_queue = 7\n");
    let other = scratch.file("flag.toml", "[limit]\nmax_queue = 8\n");
    let name = "WAWP_GATEWAY_CONFIG";
    let (code, stdout, stderr) = run_under(name, file.to_str().unwrap(), &["check"]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(stdout.contains("max_queue = 7  # "), "{stdout}");
    let args = ["check", "--config", other.to_str().unwrap()];
    let (_, stdout, _) = run_under(name, file.to_str().unwrap(), &args);
    assert!(stdout.contains("max_queue = 8  # "), "{stdout}");
    let (code, _, stderr) = run_under(name, "/nonexistent/gateway.toml", &["serve"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("/nonexistent/gateway.toml: there is no such file"),
        "{stderr}"
    );
    // An empty variable counts as unset. Without a file, variables and flags are checked.
    let (code, stdout, stderr) = run_under(name, "", &["check", "--burst", "7"]);
    assert_eq!((code, &*stderr), (0, ""));
    assert!(stdout.contains("burst = 7  # --burst"), "{stdout}");
    let (code, _, stderr) = run_under("WAWP_GATEWAY_LIMIT__RATE", "fast", &["check"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("WAWP_GATEWAY_LIMIT__RATE"), "{stderr}");
}

#[test]
fn the_log_of_a_start_names_the_settings_file() {
    let upstream = HeldUpstream::start();
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", "[limit]\nmax_queue = 7\n");
    let path = file.to_str().unwrap();
    let gateway = Program::serve_with(upstream.address, &[("CONFIG", path)], &[]);
    let said = gateway.said();
    let line = said
        .lines()
        .find(|line| line.contains(" serving "))
        .unwrap();
    assert!(line.contains(&format!("config=\"{path}\"")), "{line}");
    assert!(gateway.page("/config").text().contains("max_queue = 7  # "));
    let gateway = Program::serve_with(upstream.address, &[], &[]);
    assert!(!gateway.said().contains("config="), "{}", gateway.said());
}
