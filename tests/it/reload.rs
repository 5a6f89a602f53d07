//! Settings read again while calls go on: what comes into force, and what waits.

use std::path::Path;

use crate::support::{HeldUpstream, Program, Scratch, eventually};

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
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
