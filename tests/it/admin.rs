//! The admin pages: what they show, and what they must not show.

use serde_json::Value;

use crate::support::{
    HeldUpstream, Message, Program, RunningSandbox, Scratch, call, eventually, get, run,
};

fn answered(gateway: &Program, target: &str) -> u16 {
    let request = get(target).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    Message::response(&call(gateway.address, request), "GET").status()
}

#[test]
fn the_page_runs_only_its_own_script_and_contacts_only_the_gateway() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let gateway = Program::serve(upstream.address, &[]);
    answered(
        &gateway,
        "/v2/chats?instance_id=%3Cb%3E%26%22%27&access_token=t",
    );
    let page = gateway.page("/");
    assert_eq!(page.status(), 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "style-src 'sha256-",
        "script-src 'sha256-",
    ] {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"),
        "{policy}"
    );
    assert_eq!(page.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    let text = page.text();
    // No other host, however it is written.
    assert!(
        !text.contains("://") && !text.contains("\"//") && !text.contains("url("),
        "{text}"
    );
    assert!(
        text.contains("&lt;b&gt;&amp;&quot;'") && !text.contains("<b>&"),
        "{text}"
    );
    assert!(
        text.contains("serving") && text.contains("19 of 20"),
        "{text}"
    );
    for path in [
        "/metrics",
        "/instances",
        "/status",
        "/config",
        "/nowhere",
        "/readyz",
    ] {
        let page = gateway.page(path);
        let policy = page.field("content-security-policy");
        assert_eq!(
            policy,
            Some("default-src 'none'; frame-ancestors 'none'"),
            "{path}"
        );
        assert_eq!(
            page.field("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
}

#[test]
fn instances_show_tokens_queue_pause_and_counts() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let settings = [
        ("METRICS__MAX_INSTANCES", "2"),
        ("LIMIT__RATE", "0.01"),
        ("LIMIT__BURST", "5"),
    ];
    let gateway = Program::serve(upstream.address, &settings);
    for instance in ["a", "b", "c", "d"] {
        assert_eq!(
            answered(
                &gateway,
                &format!("/v2/chats?instance_id={instance}&access_token=t")
            ),
            200
        );
    }
    for _ in 0..6 {
        answered(&gateway, "/v2/chats?instance_id=a&access_token=t");
    }
    let page = gateway.page("/instances");
    assert_eq!(page.field("content-type"), Some("application/json"));
    let page = page.json();
    let named: Vec<_> = page["instances"].as_array().unwrap().iter().collect();
    assert_eq!(named.len(), 2, "bounded by metrics.max_instances: {page}");
    let a = named[0];
    assert_eq!((&a["instance"], &a["tenant"]), (&"a".into(), &Value::Null));
    assert_eq!(
        (&a["requests"]["other"], &a["rejected"]["max_wait"]),
        (&7.into(), &2.into()),
        "{page}"
    );
    let budget = &a["budgets"][0];
    assert!(budget["tokens"].as_f64().unwrap() < 1.0, "{page}");
    assert_eq!(
        (&budget["burst"], &budget["pause"]),
        (&5.into(), &0.0.into()),
        "{page}"
    );
    assert_eq!(budget["waiting"]["calls"], 0, "{page}");
    assert_eq!(page["other"]["requests"]["other"], 2, "{page}");
    assert_eq!(page["none"]["requests"]["other"], 0, "{page}");
}

#[test]
fn failures_are_shown_without_their_paths() {
    let sandbox = RunningSandbox::start(wawp_gateway::sandbox::Settings {
        faults: vec![
            wawp_gateway::sandbox::Fault::status(500)
                .path("/v2/fails")
                .times(usize::MAX),
        ],
        ..Default::default()
    });
    let gateway = Program::serve(sandbox.address, &[("ACCESS__INSTANCES", "any")]);
    assert_eq!(
        answered(&gateway, "/v2/fails?instance_id=123&access_token=t"),
        500
    );
    for _ in 0..30 {
        assert_eq!(
            answered(&gateway, "http://elsewhere.test/secretive?x=hush"),
            421
        );
    }
    let status = gateway.page("/status");
    let failures = status.json()["failures"].as_array().unwrap().clone();
    assert_eq!(failures.len(), 2, "more of the same are one");
    assert_eq!(failures[0]["times"], 30);
    assert_eq!(
        (&failures[0]["status"], &failures[0]["code"]),
        (&421.into(), &"foreign_target".into())
    );
    for place in [status.text(), gateway.page("/").text()] {
        for trace in ["secretive", "hush", "elsewhere"] {
            assert!(!place.contains(trace), "{trace} in {place}");
        }
    }
    assert_eq!(
        answered(&gateway, "/v2/fails?instance_id=123&access_token=t"),
        500
    );
    let newest = gateway.page("/status").json()["failures"][0].clone();
    assert_eq!(
        (&newest["status"], &newest["code"]),
        (&500.into(), &Value::Null),
        "{newest}"
    );
}

#[test]
fn config_is_what_check_prints_and_follows_a_reload() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", "[limit]\nrate = 3.5\n");
    let file = file.to_str().unwrap();
    let gateway = Program::serve_with(upstream.address, &[], &["--config", file]);
    let shown = || gateway.page("/config").text().to_owned();
    let (_, checked, _) = run(&["check", "--config", file]);
    // The addresses came by flags.
    let of_file = |text: &str| {
        let lines = text.lines().filter(|line| {
            !["listen =", "admin =", "url ="]
                .iter()
                .any(|key| line.starts_with(key))
        });
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_file(&shown()), of_file(&checked));
    scratch.file(
        "gateway.toml",
        "[limit]\nrate = 4.5\n[metrics]\nmax_instances = 7\n",
    );
    gateway.signal("HUP");
    eventually("the page follows", || shown().contains("rate = 4.5"));
    let waits = "max_instances = 100\n# after a restart: max_instances = 7";
    assert!(shown().contains(waits), "{}", shown());
    scratch.file("gateway.toml", "[limit]\nrate = \"fast\"\n");
    gateway.signal("HUP");
    eventually("the mistake is logged", || {
        gateway.said().contains("not reloaded")
    });
    assert!(shown().contains("rate = 4.5"));
}

#[test]
fn an_instance_that_the_api_refuses_is_a_problem_that_leads_to_its_runbook() {
    let sandbox = RunningSandbox::start(wawp_gateway::sandbox::Settings::default());
    let gateway = Program::serve(sandbox.address, &[]);
    assert_eq!(
        answered(&gateway, "/v2/session/info?instance_id=well&access_token=t"),
        200
    );
    assert_eq!(
        answered(&gateway, "/v2/session/info?instance_id=dead&access_token=t"),
        200
    );
    assert!(gateway.page("/").text().contains("All is well."));
    for _ in 0..4 {
        assert_eq!(
            answered(
                &gateway,
                "/v2/session/info?instance_id=dead&access_token=invalid"
            ),
            401
        );
    }
    let status = gateway.page("/status").json();
    let problems = status["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{status}");
    assert_eq!(
        (
            &problems[0]["instance"],
            &problems[0]["severity"],
            &problems[0]["alert"]
        ),
        (
            &"dead".into(),
            &"critical".into(),
            &"WawpGatewayInstanceUnlinked".into()
        )
    );
    assert_eq!(status["instances"][0]["instance"], "dead", "problems first");
    assert_eq!(status["failures"][0]["status"], 401);
    let page = gateway.page("/").text().to_owned();
    assert!(page.contains("runbook#instance-unlinked") && !page.contains("All is well."));
    let runbook = gateway.page("/runbook");
    assert!(runbook.text().contains("id=\"instance-unlinked\""));
    let policy = runbook.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[test]
fn a_search_lists_only_what_it_finds_and_stays_text() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let gateway = Program::serve(upstream.address, &[]);
    for n in 0..25 {
        answered(
            &gateway,
            &format!("/v2/chats?instance_id=no{n}&access_token=t"),
        );
    }
    let rows = |query: &str| {
        let page = gateway.page(&format!("/{query}")).text().to_owned();
        page.matches("data-label=\"Instance\"").count()
    };
    // Twenty, and the two sums.
    assert_eq!(
        (rows(""), rows("?find=NO2"), rows("?find=nothing")),
        (22, 6, 0)
    );
    let page = gateway.page("/?find=%22%3E%3Cscript%3Ealert(1)%3C/script%3E");
    assert!(
        page.text().contains("value=\"&quot;&gt;&lt;script&gt;"),
        "{}",
        page.text()
    );
    assert!(!page.text().contains("<script>alert"));
}

#[test]
fn a_refusal_names_its_instance_and_the_budget_that_refused_it() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let tenants = "[{name = \"acme\", instances = [\"1\"], rate = 0.01, burst = 1}, \
                   {name = \"far\", instances = [\"2\"], networks = [\"192.0.2.0/24\"]}]";
    let settings = [
        ("TENANT", tenants),
        ("LIMIT__MAX_WAIT", "0s"),
        ("BATCH__WINDOW", "0ms"),
        ("LOG__FORMAT", "json"),
    ];
    let gateway = Program::serve(upstream.address, &settings);
    let ask = |instance: &str| {
        answered(
            &gateway,
            &format!("/v2/chats?instance_id={instance}&access_token=t"),
        )
    };
    // An instance of the settings is named; a text that only a client knows is not.
    let of = |instance| (ask(instance), ask(instance), ask(instance));
    assert_eq!(of("1"), (200, 200, 429));
    assert_eq!(ask("2"), 403);
    let failures = gateway.page("/status").json()["failures"].clone();
    let shown = |index: usize| {
        let failure = &failures[index];
        let of = |name: &str| failure[name].as_str().unwrap_or("-").to_owned();
        (of("code"), of("instance"), of("budget"))
    };
    let refused = |code: &str, instance: &str, budget: &str| {
        (code.to_owned(), instance.to_owned(), budget.to_owned())
    };
    assert_eq!(shown(0), refused("refused", "2", "-"));
    assert_eq!(shown(1), refused("rate_limited", "1", "tenant"));
    let one = gateway.page("/instances").json()["instances"][0].clone();
    assert_eq!(one["rejected"]["tenant_budget"], 1, "{one}");
    assert_eq!(one["rejected"]["max_wait"], 0, "{one}");
    let page = gateway.page("/");
    assert!(page.text().contains("1 (tenant 1)"), "{}", page.text());
    assert!(page.text().contains("gateway: rate_limited (tenant)"));
    // The totals say from when they are.
    assert!(
        page.text()
            .contains("Since the start, but for the requests per minute.")
    );
    let reason = "reason=\"tenant_budget\"";
    assert_eq!(
        gateway.counted("wawp_gateway_limit_rejected_total", &[reason]),
        1.0
    );
    gateway.signal("TERM");
    let (_, log, _) = gateway.ends();
    let budgets = log
        .lines()
        .filter(|line| line.contains("\"budget\":\"tenant\""));
    assert_eq!(budgets.count(), 1, "{log}");
}
