//! The paths under `/v2`.
//!
//! Owns the table of endpoints and the order of checks: path, method, token, instance, quota, parameters.
//! [`samples`] makes the bodies.
//! Invariant: a refused request has no effect: it sends no message and creates no instance.

use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::params::Params;
use super::paths;
use super::receipts;
use super::responses::{self, Body, Failure, Shape};
use super::samples::{self, About};
use super::state::State;

/// An endpoint: path under `/v2/` (`*` is any one segment), methods, required parameters, and what it does.
type Row = (&'static str, &'static str, &'static [&'static str], Action);

/// What an endpoint does.
#[derive(Clone, Copy)]
enum Action {
    /// Marks messages as read.
    Seen,
    /// Sends a message.
    Send,
    /// Creates an instance: the only request without an instance id.
    Create,
    /// Shows something.
    Show(fn(&About<'_>) -> serde_json::Value),
}

use Action::{Create, Seen, Send, Show};

const CHAT: &[&str] = &["chatId"];

/// The endpoints of the vendor's reference. No two rows match the same path.
const TABLE: &[Row] = &[
    ("send/seen", "POST", CHAT, Seen),
    ("send/start-typing", "POST", CHAT, Show(samples::done)),
    ("send/stop-typing", "POST", CHAT, Show(samples::done)),
    ("send/text", "GET POST", CHAT, Send),
    ("send/image", "GET POST", CHAT, Send),
    ("send/video", "GET POST", CHAT, Send),
    ("send/audio", "GET POST", CHAT, Send),
    ("send/voice", "GET POST", CHAT, Send),
    ("send/pdf", "GET POST", CHAT, Send),
    ("send/list", "POST", CHAT, Send),
    ("send/event", "POST", CHAT, Send),
    ("send/link-preview", "POST", CHAT, Send),
    ("send/location", "POST", CHAT, Send),
    ("send/poll", "POST", CHAT, Send),
    ("send/poll-vote", "POST", CHAT, Send),
    ("send/contact", "POST", CHAT, Send),
    ("send/reaction", "POST PUT", CHAT, Send),
    ("session/create", "POST", &[], Create),
    ("session/start", "GET POST", &[], Show(samples::session)),
    ("session/stop", "GET POST", &[], Show(samples::session)),
    ("session/restart", "GET POST", &[], Show(samples::session)),
    ("session/logout", "GET POST", &[], Show(samples::session)),
    ("session/delete", "DELETE", &[], Show(samples::done)),
    ("session/info", "GET POST", &[], Show(samples::session)),
    ("session/me", "GET", &[], Show(samples::me)),
    (
        "session/rate-limit",
        "GET PATCH",
        &[],
        Show(samples::rate_limit),
    ),
    (
        "session/temp-link",
        "GET POST DELETE",
        &[],
        Show(samples::done),
    ),
    ("session/webhook", "GET POST", &[], Show(samples::done)),
    ("auth/qr", "GET POST", &[], Show(samples::qr)),
    ("auth/qr-image", "GET POST", &[], Show(samples::qr)),
    ("auth/request-code", "POST", &[], Show(samples::code)),
    ("chats", "GET POST", &[], Show(samples::chats)),
    ("chats/overview", "GET", &[], Show(samples::chats)),
    ("chats/messages", "GET", CHAT, Show(samples::messages)),
    ("chats/read", "POST", CHAT, Show(samples::read)),
    ("chats/unread", "POST", CHAT, Show(samples::done)),
    ("chats/archive", "POST", CHAT, Show(samples::done)),
    ("chats/unarchive", "POST", CHAT, Show(samples::done)),
    ("chats/clear", "POST", CHAT, Show(samples::done)),
    ("chats/delete", "DELETE", CHAT, Show(samples::done)),
    ("messages/get", "POST", &[], Show(samples::messages)),
    ("groups", "GET", &[], Show(samples::list)),
    ("groups/detail", "GET", &[], Show(samples::done)),
    ("groups/create", "POST", &[], Show(samples::done)),
    ("groups/join", "POST", &[], Show(samples::done)),
    ("groups/*/participants", "GET", &[], Show(samples::list)),
    ("groups/*/invite-code", "GET", &[], Show(samples::code)),
    (
        "groups/*/participants/add",
        "POST",
        &[],
        Show(samples::done),
    ),
    (
        "groups/*/participants/remove",
        "POST",
        &[],
        Show(samples::done),
    ),
    ("groups/*/leave", "POST", &[], Show(samples::done)),
    ("contacts", "GET", &[], Show(samples::me)),
    ("contacts/all", "GET", &[], Show(samples::list)),
    ("contacts/profile-picture", "GET", &[], Show(samples::done)),
    (
        "contacts/check-exists",
        "GET POST",
        &[],
        Show(samples::done),
    ),
    ("lids", "GET", &[], Show(samples::list)),
    ("labels/all", "GET", &[], Show(samples::list)),
    ("labels/create", "POST", &[], Show(samples::done)),
    ("labels/*/delete", "DELETE", &[], Show(samples::done)),
    ("labels/*/chats", "GET", &[], Show(samples::list)),
    ("labels/*/chats/*", "POST DELETE", &[], Show(samples::done)),
    ("profile", "GET", &[], Show(samples::me)),
    ("profile/name", "POST", &[], Show(samples::done)),
    ("profile/status", "POST", &[], Show(samples::done)),
    ("profile/picture", "POST", &[], Show(samples::done)),
    ("webhook/set", "POST", &[], Show(samples::done)),
    ("webhook/update", "PATCH", &[], Show(samples::done)),
    ("webhook/delete", "DELETE", &[], Show(samples::done)),
];

/// The query keys of `/v2/chats`. The vendor rejects others; the list is a guess from similar endpoints.
const CHATS_KEYS: [&str; 8] = [
    "instance_id",
    "access_token",
    "limit",
    "offset",
    "sortBy",
    "sortOrder",
    "chatId",
    "downloadMedia",
];

/// Responds to a complete request under `/v2`.
pub(super) fn respond(state: &State, parts: &Parts, params: &Params) -> Response<Body> {
    // Errors have the media type that the client accepts; successful responses are always JSON.
    let shape = Shape::of(&parts.headers);
    let Some((path, methods, needs, action)) = find(parts.uri.path()) else {
        let text = format!("No such endpoint: {}", parts.uri.path());
        return Failure::new(StatusCode::NOT_FOUND, "not_found", text).response(shape);
    };
    if !allows(methods, *action, &parts.method) {
        let text = format!("This endpoint takes {}", methods.replace(' ', ", "));
        let mut response = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
            .response(shape);
        if let Ok(allow) = HeaderValue::from_str(&methods.replace(' ', ", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        return response;
    }
    check_and_do(state, parts, params, (path, methods, needs, *action))
        .unwrap_or_else(|failure| failure.response(shape))
}

/// Checks a request in the order of the module's documentation, and processes it.
fn check_and_do(
    state: &State,
    parts: &Parts,
    params: &Params,
    row: Row,
) -> Result<Response<Body>, Failure> {
    let (path, _, needs, action) = row;
    // Before the other checks: a wrong token gets 401 whatever else is wrong with the request.
    check_token(state, params)?;
    // Before the check of the instance: it does not exist yet.
    if let Create = action {
        let number = state.created.fetch_add(1, Ordering::Relaxed);
        return Ok(responses::json(
            StatusCode::CREATED,
            &samples::created(number),
        ));
    }
    let instance = check_instance(state, params)?;
    if let Some(name) = needs.iter().find(|name| params.text(name).is_none()) {
        return Err(Failure::missing_param(name));
    }
    if path == "chats" {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        if let Some((key, _)) =
            form_urlencoded::parse(query).find(|(key, _)| !CHATS_KEYS.contains(&&**key))
        {
            let text = format!("Unknown parameter: {key}");
            return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_param", text));
        }
    }
    let chat = params.text("chatId").unwrap_or_default();
    let about = About {
        instance,
        chat: &chat,
        params,
        now: state.now(),
    };
    match action {
        Seen => receipts::mark(state, &chat, params),
        Send => {
            // Counted only here, after all checks: a refused request sends nothing.
            let number = state.messages.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(responses::json(
                StatusCode::CREATED,
                &samples::sent(&about, number),
            ))
        }
        Show(make) => {
            // As WAHA's framework (NestJS) does by default: 201 for every POST.
            let status = if parts.method == Method::POST {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            Ok(responses::json(status, &make(&about)))
        }
        // Unreachable: handled above, before the checks that need an instance.
        Create => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "created twice",
        )),
    }
}

fn check_token(state: &State, params: &Params) -> Result<(), Failure> {
    let token = params.token.as_deref();
    let is_valid = token.is_some_and(|token| match &state.settings.token {
        Some(only) => token == only,
        None => !token.starts_with("invalid"),
    });
    is_valid.then_some(()).ok_or_else(|| {
        let text = "Invalid or missing access token";
        Failure::new(StatusCode::UNAUTHORIZED, "invalid_access_token", text)
    })
}

/// The instance, if it exists and its quota admits a request.
fn check_instance<'p>(state: &State, params: &'p Params) -> Result<&'p str, Failure> {
    let instance = params.instance.as_deref();
    let instance = instance.ok_or_else(|| Failure::missing_param("instance_id"))?;
    if !exists(state, instance) {
        let text = "Session does not exist";
        return Err(Failure::new(StatusCode::NOT_FOUND, "invalid_session", text));
    }
    // After token and instance, so that only valid requests use up the quota.
    let quotas = state.quotas.as_ref();
    if quotas.is_some_and(|quotas| !quotas.admits(instance)) {
        return Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            "Too Many Requests - Rate Limit Exceeded",
        ));
    }
    Ok(instance)
}

/// Finds an endpoint.
fn find(path: &str) -> Option<&'static Row> {
    let segments = paths::segments(path)?;
    TABLE.iter().find(|(path, ..)| {
        let mut given = segments.iter();
        path.split('/').all(|wanted| {
            given
                .next()
                .is_some_and(|given| wanted == "*" || wanted == given)
            // The path of the request must not be longer than the pattern.
        }) && given.next().is_none()
    })
}

/// Path and methods of every endpoint.
#[cfg(test)]
pub(super) fn listed() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().map(|(path, methods, ..)| (*path, *methods))
}

/// Whether a method is allowed. HEAD is allowed where GET is, except where GET sends a message.
fn allows(methods: &str, action: Action, method: &Method) -> bool {
    // HEAD must be safe (RFC 9110 §9.2.1), but GET of a send path sends a message.
    let effective = if *method == Method::HEAD && matches!(action, Show(_)) {
        "GET"
    } else {
        method.as_str()
    };
    methods.split(' ').any(|allowed| allowed == effective)
}

/// Whether an instance exists: one of the settings, or any id of the allowed form.
fn exists(state: &State, instance: &str) -> bool {
    match &state.settings.instances {
        Some(listed) => listed.iter().any(|known| known == instance),
        None => {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
            (1..=64).contains(&instance.len())
                && instance.bytes().all(allowed)
                && !instance.starts_with("missing")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_by_the_paths_that_clients_use() {
        for (path, row) in [
            ("/v2/send/seen", "send/seen"),
            ("//v2//send/seen", "send/seen"),
            ("/v2/groups/1@g.us/participants", "groups/*/participants"),
            ("/v2/groups/1%40g.us/participants", "groups/*/participants"),
            ("/v2/groups/detail", "groups/detail"),
            ("/v2/labels/7/chats/1@c.us", "labels/*/chats/*"),
        ] {
            assert_eq!(find(path).map(|row| row.0), Some(row), "{path}");
        }
        for path in [
            "/v2",
            "/v2/send",
            "/v2/send/seen/x",
            "/v3/send/seen",
            "/send/seen",
            "/v2/SEND/seen",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn head_never_sends() {
        assert!(allows("GET POST", Send, &Method::GET));
        assert!(!allows("GET POST", Send, &Method::HEAD));
        assert!(allows("GET", Show(samples::me), &Method::HEAD));
        assert!(!allows("POST", Seen, &Method::GET));
    }
}
