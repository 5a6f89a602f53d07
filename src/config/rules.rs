//! The rules between settings, checked after each setting by itself.

use std::net::SocketAddr;

use super::effective::Setting;
use super::mistakes::Mistakes;
use super::settings::Config;

/// Puts a section's `rate` and `burst` together as `quota`; a rate of 0 is unlimited.
pub(super) fn join_quota(
    section: &str,
    read: &mut toml::Table,
    default_burst: i64,
    shown: &[Setting],
    mistakes: &mut Mistakes,
) {
    // Sections without a rate, and rates that were wrong, have no quota.
    let Some(rate) = read.get("rate").and_then(toml::Value::as_float) else {
        return;
    };
    let burst = read
        .get("burst")
        .and_then(toml::Value::as_integer)
        .unwrap_or(default_burst);
    if rate > 0.0 && burst > 0 {
        let quota = [("rate", rate.into()), ("burst", toml::Value::from(burst))];
        let quota = quota.map(|(key, value)| (key.to_owned(), value));
        read.insert("quota".to_owned(), toml::Table::from_iter(quota).into());
    } else if rate > 0.0 {
        let paths = ["rate", "burst"].map(|key| format!("{section}.{key}"));
        let rule = "burst must be 1 or more where there is a rate, or no request could pass";
        forbid(&[&paths[0], &paths[1]], rule, shown, mistakes);
    }
}

/// Checks the settings that are allowed each by itself, but not together.
pub(super) fn check(config: &Config, shown: &[Setting], mistakes: &mut Mistakes) {
    if collide(config.server.listen, config.server.admin) {
        let rule = "server.listen and server.admin must differ";
        forbid(&["server.admin", "server.listen"], rule, shown, mistakes);
    }
    if config.server.drain_delay >= config.server.drain_timeout {
        let rule =
            "server.drain_delay must be shorter than server.drain_timeout, which includes it";
        let paths = ["server.drain_delay", "server.drain_timeout"];
        forbid(&paths, rule, shown, mistakes);
    }
    check_classes(config, shown, mistakes);
    // A window of zero turns merging off.
    let window = config.batch.window;
    if !window.is_zero() && window >= config.limit.max_wait {
        let rule =
            "batch.window must be shorter than limit.max_wait, or no receipt could be served";
        forbid(&["limit.max_wait", "batch.window"], rule, shown, mistakes);
    }
}

/// Each class says what it holds for, and only tenants that exist.
fn check_classes(config: &Config, shown: &[Setting], mistakes: &mut Mistakes) {
    // Classes with a mistake of their own are left out of the list, so its indices would be wrong.
    let names = shown
        .iter()
        .filter(|it| it.section.starts_with("limit.class[") && it.key == "name");
    for name in names {
        let class = &name.section;
        let is_set = |key: &str| {
            let path = format!("{class}.{key}");
            mistakes.is_wrong(&path) || shown.iter().any(|it| it.path() == path)
        };
        if !["paths", "instances", "tenants"].into_iter().any(is_set) {
            let rule =
                "a class needs paths, instances or tenants, or it would hold for every request";
            forbid(&[&name.path()], rule, shown, mistakes);
        }
        let tenants = shown
            .iter()
            .find(|it| it.section == *class && it.key == "tenants");
        if let Some(tenants) = tenants
            && let Some(unknown) = unknown_tenant(&tenants.toml, config)
            // A tenant with a mistake of its own is left out of the settings.
            && !shown.iter().any(|it| it.section.starts_with("tenant[") && it.toml == unknown)
        {
            let rule = format!("there is no tenant {unknown}");
            forbid(&[&tenants.path()], &rule, shown, mistakes);
        }
    }
}

/// The first name of this list that no tenant has, in quotes.
fn unknown_tenant(list: &str, config: &Config) -> Option<String> {
    let list: toml::Table = toml::from_str(&format!("names = {list}")).ok()?;
    let names = list.get("names")?.as_array()?.iter();
    let is_known = |name: &str| config.tenants.iter().any(|tenant| tenant.name == name);
    let mut unknown = names.filter(|name| !name.as_str().is_some_and(is_known));
    Some(unknown.next()?.to_string())
}

/// Says whether two listeners cannot both be bound: a listener on all addresses takes the port of
/// one on a single address.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    // Port 0 is a different free port for each listener.
    a.port() == b.port() && a.port() != 0 && overlap
}

/// Adds a mistake at that of these settings whose layer is strongest: it is probably the one that
/// was changed last.
///
/// Does nothing where one of them is wrong by itself: its value is not the intended one.
fn forbid(paths: &[&str], rule: &str, shown: &[Setting], mistakes: &mut Mistakes) {
    if paths.iter().any(|path| mistakes.is_wrong(path)) {
        return;
    }
    let settings = shown
        .iter()
        .filter(|setting| paths.contains(&&*setting.path()));
    // At a default, the mistake would name a line that the operator has not written.
    if let Some(setting) = settings.max_by_key(|setting| &setting.origin) {
        mistakes.add(
            &setting.origin,
            &setting.path(),
            Some(setting.toml.clone()),
            rule,
        );
    }
}
