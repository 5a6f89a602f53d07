//! The manual page, as one page of roff.
//!
//! Owns only what has no other source. Commands and flags are written by clap from the definition
//! of the command line, settings from `default.toml`.

use std::io::{self, Write};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::config::{self, DEFAULT_FILE, FILE_VARIABLE};

/// The sections about the running program: their titles, and what is defined in each.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "FILES",
        &[(
            DEFAULT_FILE,
            "The settings, in TOML. Read if no other file is named. A file needs only the settings that it \
             changes; wawp-gateway check reports its mistakes.",
        )],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                FILE_VARIABLE,
                "The settings file, if --config does not name one.",
            ),
            (
                "WAWP_GATEWAY_<SECTION>__<KEY>",
                "One setting, such as WAWP_GATEWAY_LIMIT__RATE=5. It overrides the file; a flag overrides it. \
                 An empty variable counts as unset.",
            ),
            (
                "LISTEN_FDS, LISTEN_PID, NOTIFY_SOCKET",
                "Set by systemd: sockets in place of server.listen and server.admin (in this order), and \
                 where to report readiness, reloads and the stop.",
            ),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "Drain: accept no new connections, respond to every accepted request, and exit. What has not \
                 ended after server.drain_timeout is cut. A second signal exits at once.",
            ),
            (
                "SIGHUP",
                "Read the settings, certificates and file: secrets again. No request is dropped; a mistake \
                 changes nothing and is logged.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            (
                "0",
                "Success; for serve: every accepted request got its response.",
            ),
            (
                "1",
                "The gateway could not start, or a drain cut requests or connections; for health: the \
                 gateway does not accept requests.",
            ),
            (
                "2",
                "A setting, a file that the settings name, or an argument is wrong.",
            ),
        ],
    ),
];

/// What to type, and what it does.
const EXAMPLES: [(&str, &str); 7] = [
    (
        "wawp-gateway init > gateway.toml",
        "Begin with careful limits for messages, group calls and number checks.",
    ),
    (
        "curl -s 'http://127.0.0.1:8080/v2/session/rate-limit?instance_id=ID&access_token=TOKEN' | \
         wawp-gateway init --from-policy -",
        "The limits of the policy that a number has at the API.",
    ),
    (
        "wawp-gateway check --config gateway.toml",
        "Check a settings file before it is used.",
    ),
    (
        "wawp-gateway --config gateway.toml",
        "Serve with these settings.",
    ),
    (
        "curl 'http://127.0.0.1:8080/v2/session/info?instance_id=ID&access_token=TOKEN'",
        "A request through the gateway.",
    ),
    (
        "wawp-gateway sandbox & wawp-gateway --upstream http://127.0.0.1:8081",
        "Try it without an account.",
    ),
    (
        "wawp-gateway explain one.http other.http",
        "Find out why two receipts do not merge.",
    ),
];

/// Writes the manual page.
///
/// # Errors
/// It cannot be written.
pub fn write_manual(to: &mut impl Write) -> io::Result<()> {
    let mut definition = super::definition();
    // Fills in what clap adds itself, such as `--help`; otherwise the page would lack it.
    definition.build();
    let page = Man::new(definition.clone());
    // `Man::render` would describe each command in a page of its own; this is one page.
    page.render_title(to)?;
    page.render_name_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_description_section(to)?;
    page.render_options_section(to)?;
    write_commands(&definition, to)?;
    write_settings(to)?;
    for (title, entries) in SECTIONS {
        let mut section = Roff::new();
        section.control("SH", [title]);
        for (term, text) in entries {
            section
                .control("TP", [])
                .text([bold(*term)])
                .text([roman(*text)]);
        }
        section.to_writer(to)?;
    }
    let mut examples = Roff::new();
    examples.control("SH", ["EXAMPLES"]);
    for (command, text) in EXAMPLES {
        examples
            .control("TP", [])
            .text([roman(text)])
            .text([bold(command)]);
    }
    examples.to_writer(to)?;
    page.render_version_section(to)
}

/// Writes a section for each command.
fn write_commands(definition: &clap::Command, to: &mut impl Write) -> io::Result<()> {
    for command in definition.get_subcommands() {
        let title = format!("WAWP-GATEWAY {}", command.get_name().to_uppercase());
        let mut section = Roff::new();
        section.control("SH", [&*title]);
        if let Some(about) = command.get_about() {
            section.text([roman(format!("{about}."))]);
        }
        section.to_writer(to)?;
        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options)?;
        // The heading of the options would end the section of the command.
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".SS OPTIONS");
        to.write_all(options.as_bytes())?;
    }
    Ok(())
}

/// Writes every setting with its default, or an example where there is none.
fn write_settings(to: &mut impl Write) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("SH", ["SETTINGS"]);
    for section in config::describe() {
        if !section.header.is_empty() {
            page.control("SS", [&*section.header]);
        }
        page.text([roman(section.text)]);
        for setting in section.settings {
            // A setting without a text is described together with the one before.
            let is_described = !setting.text.is_empty();
            page.control(if is_described { "TP" } else { "TQ" }, []);
            let value = if setting.is_default {
                roman(setting.value)
            } else {
                italic(setting.value)
            };
            page.text([bold(setting.key), roman(" = "), value]);
            page.text([roman(setting.text)]);
        }
    }
    page.to_writer(to)
}
