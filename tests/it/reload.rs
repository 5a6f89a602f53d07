//! Settings read again while calls go on: what comes into force, what waits, and that no file holds anybody up.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{
    HeldUpstream, Message, Program, Scratch, World, call, eventually, get, run, text,
};

/// Opening does not wait for the other end (Linux' `O_NONBLOCK`): a test that fails must end.
const DO_NOT_WAIT: i32 = 0o4000;

/// A file that is read only as fast as a test writes it.
struct Pipe(PathBuf);

impl Pipe {
    fn new(scratch: &Scratch) -> Self {
        let path = scratch.file("pipe", "");
        std::fs::remove_file(&path).unwrap();
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        Self(path)
    }

    /// Our end, as soon as a process reads at the other end: it then waits for what we write.
    fn once_it_is_read(&self) -> File {
        let mut end = None;
        eventually("the pipe is read", || {
            let mut options = File::options();
            options.write(true).custom_flags(DO_NOT_WAIT);
            end = options.open(&self.0).ok();
            end.is_some()
        });
        end.unwrap()
    }
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn asked(gateway: &Program) -> Message {
    let request = get("/v2/chats?instance_id=1").replacen("\r\n", "\r\nConnection: close\r\n", 1);
    Message::response(&call(gateway.address, request), "GET")
}

#[test]
fn a_file_that_is_read_for_ever_holds_up_neither_calls_nor_signals() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let scratch = Scratch::new();
    let pipe = Pipe::new(&scratch);
    let gateway = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut end = pipe.once_it_is_read();
            end.write_all(b"[limit]\nheaders = false\n").unwrap();
        });
        Program::serve_with(upstream.address, &[], &["--config", arg(&pipe.0)])
    });
    gateway.signal("HUP");
    let mut end = pipe.once_it_is_read();
    assert_eq!(gateway.page("/livez").status(), 200);
    // One for each worker, and some more.
    for _ in 0..8 {
        assert_eq!(asked(&gateway).field("ratelimit"), None);
    }
    gateway.signal("HUP");
    eventually("the second request is heard", || {
        gateway.said().contains("still being read")
    });
    end.write_all(b"[limit]\nheaders = true\n").unwrap();
    drop(end);
    eventually("the first reading is in force", || {
        asked(&gateway).field("ratelimit").is_some()
    });

    let mut end = pipe.once_it_is_read();
    end.write_all(b"[limit]\nheaders = false\n").unwrap();
    drop(end);
    eventually("so is the second", || {
        asked(&gateway).field("ratelimit").is_none()
    });

    gateway.signal("HUP");
    let _end = pipe.once_it_is_read();
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn what_needs_a_restart_is_named_and_shown_beside_what_is_in_force() {
    let upstream = HeldUpstream::start();
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", "[server]\nmax_in_flight = 500\n");
    let gateway = Program::serve_with(upstream.address, &[], &["--config", arg(&file)]);
    let reloads = |text: &str, times: usize| {
        scratch.file("gateway.toml", text);
        gateway.signal("HUP");
        eventually("it is reloaded", || {
            gateway.said().matches("settings reloaded").count() == times
        });
        gateway.page("/config").text().to_owned()
    };
    let page = reloads(
        "[upstream]\nconnect_timeout = \"2s\"\n[server]\nmax_in_flight = 600\n\
         [log]\nlevel = \"warn\"\naccess_sample = 7\n",
        1,
    );
    let name = file.display();
    for lines in [
        format!(
            "max_in_flight = 500  # {name}:2\n# after a restart: max_in_flight = 600  # {name}:4\n"
        ),
        format!(
            "connect_timeout = \"5s\"\n# after a restart: connect_timeout = \"2s\"  # {name}:2\n"
        ),
        format!("level = \"info\"\n# after a restart: level = \"warn\"  # {name}:6\n"),
        format!("access_sample = 7  # {name}:7\n"),
    ] {
        assert!(page.contains(&lines), "{lines} is not in\n{page}");
    }
    assert_eq!(page.matches("after a restart").count(), 3, "{page}");
    let said = gateway.said();
    let warning = "settings that were changed and need a restart keys=\"server.max_in_flight, upstream.connect_timeout, log.level\"";
    assert!(said.contains(warning), "{said}");

    // What is taken back waits no longer.
    let page = reloads("[server]\nmax_in_flight = 500\n", 2);
    assert!(!page.contains("after a restart"), "{page}");
    assert_eq!(gateway.said().matches("need a restart").count(), 1);
}

#[test]
fn files_with_which_no_start_could_be_made_are_told_at_once() {
    let upstream = HeldUpstream::start();
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", "[limit]\nheaders = false\n");
    let gateway = Program::serve_with(upstream.address, &[], &["--config", arg(&file)]);
    let text = "[server]\ntls = { cert = \"/nowhere/cert.pem\", key = \"/nowhere/key.pem\" }\n\
                [upstream]\nca = \"/nowhere/ca.pem\"\n";
    scratch.file("gateway.toml", text);
    gateway.signal("HUP");
    let cert = format!(
        "{}:2: server.tls.cert = \"/nowhere/cert.pem\": ",
        file.display()
    );
    eventually("the log says why not", || {
        let said = gateway.said();
        said.contains("settings not reloaded: nothing has changed") && said.contains(&cert)
    });
    let (code, stdout, stderr) = run(&["check", "--config", arg(&file)]);
    assert_eq!((code, &*stdout), (2, ""), "{stderr}");
    let ca = format!("{}:4: upstream.ca = \"/nowhere/ca.pem\": ", file.display());
    assert!(stderr.contains(&cert) && stderr.contains(&ca), "{stderr}");
    assert!(stderr.contains("server.tls.key = "), "{stderr}");
    assert!(stderr.contains("3 mistakes"), "{stderr}");

    // Without TLS to the upstream its authorities are not read.
    scratch.file(
        "gateway.toml",
        "[upstream]\nurl = \"http://h\"\nca = \"/nowhere\"\n",
    );
    let (code, _, stderr) = run(&["check", "--config", arg(&file)]);
    assert_eq!(code, 0, "{stderr}");

    let pipe = Pipe::new(&scratch);
    let text = format!("[upstream]\nca = \"{}\"\n", pipe.0.display());
    scratch.file("gateway.toml", &text);
    let (code, _, stderr) = run(&["check", "--config", arg(&file)]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("this is a named pipe, not a file"),
        "{stderr}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_the_settings_with_which_it_began() {
    let strict = "limit.rate = 1\nlimit.burst = 1\nlimit.max_wait = \"0s\"\nbatch.window = \"0ms\"";
    let observing = format!("{strict}\nlimit.mode = \"observe\"");
    // Its instance is in its body, which is complete only after the reload.
    let request = text("hello");
    let (head, body) = request.split_at(request.len() - 10);
    for (before, after, status) in [(strict, &*observing, 429), (&*observing, strict, 201)] {
        let world = World::new(before);
        assert_eq!(world.call(&request).await.status(), 201);
        let mut client = world.client();
        client.says(head).await;
        // Until then the rest of a short request is awaited before it begins.
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.reload(after);
        client.says(body).await;
        assert_eq!(client.response().await.status(), status);
        let other = if status == 429 { 201 } else { 429 };
        assert_eq!(world.call(&request).await.status(), other);
    }
}
