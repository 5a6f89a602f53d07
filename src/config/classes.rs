//! Which class of the limit a request belongs to, and which limit an instance has there.
//!
//! Classes with the same paths and methods are one *group*: they differ only in the instances
//! that they hold for, and so an instance keeps its buckets when it moves between them. Group 0 is
//! the base limit, with the classes that have neither paths nor methods. Invariant: the first class
//! that matches a request counts.

use std::collections::HashSet;
use std::num::NonZeroU32;

use http::Method;

use super::path_pattern::PathPattern;
use super::quota::Quota;
use super::settings::{Class, Config};

/// The classes of the settings, with the instances of their tenants.
#[derive(Clone, Debug)]
pub struct Classes {
    /// In the order of the settings.
    classes: Vec<ClassRule>,
    groups: Vec<Group>,
    base: InstanceLimit,
}

/// The requests that share the buckets of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    paths: Vec<PathPattern>,
    methods: Vec<Method>,
}

/// What an instance may do in one group.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceLimit {
    /// The class; `None` is the base limit.
    pub class: Option<Box<str>>,
    /// The budget; `None` is unlimited.
    pub quota: Option<Quota>,
    /// Upstream calls in flight at once; `None` is unlimited.
    pub max_in_flight: Option<NonZeroU32>,
}

#[derive(Clone, Debug)]
struct ClassRule {
    /// An index into `groups`.
    group: usize,
    /// `None`: all instances.
    instances: Option<HashSet<Box<str>>>,
    limit: InstanceLimit,
}

impl Classes {
    /// The classes of these settings.
    pub fn new(config: &Config) -> Self {
        let mut groups = vec![Group::default()];
        let rules = config.limit.classes.iter().map(|class| {
            let group = Group {
                paths: class.paths.clone(),
                methods: class.methods.clone(),
            };
            let known = groups.iter().position(|known| *known == group);
            let index = known.unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            });
            ClassRule {
                group: index,
                instances: instances(class, config),
                limit: InstanceLimit {
                    class: Some(Box::from(&*class.name)),
                    quota: class.quota,
                    max_in_flight: class.max_in_flight,
                },
            }
        });
        let classes = rules.collect();
        Self {
            classes,
            groups,
            base: InstanceLimit {
                class: None,
                quota: config.limit.quota,
                max_in_flight: None,
            },
        }
    }

    /// Whether the base limit is all there is.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Finds the first class that a request belongs to, as an index into `limit.classes`; `None` is
    /// the base limit. `path` is normalised, so that no form of a path bypasses its class.
    ///
    /// `is_batch_path` is true for a path of `batch.paths`. Wildcards never match those, so that a
    /// class for sends (`/v2/send/*`) does not include the read receipts.
    pub fn class_of(
        &self,
        method: &Method,
        path: &str,
        is_batch_path: bool,
        instance: Option<&str>,
    ) -> Option<usize> {
        self.classes.iter().position(|class| {
            class.holds_for(instance)
                && self.groups[class.group].matches(method, path, is_batch_path)
        })
    }

    /// The group of a class; `None` is the base limit.
    pub fn group_of(&self, class: Option<usize>) -> usize {
        class.map_or(0, |class| self.classes[class].group)
    }

    /// All groups; the first is that of the base limit.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The paths and methods of a group, as a text that is the same in all gateways with these
    /// settings.
    pub fn requests_of(&self, group: usize) -> String {
        let Group { paths, methods } = &self.groups[group];
        let paths = paths.iter().map(ToString::to_string);
        // No path contains a space, and none begins like a method.
        let all = paths.chain(methods.iter().map(ToString::to_string));
        all.collect::<Vec<_>>().join(" ")
    }

    /// The names of the classes of a group.
    pub fn names_of(&self, group: usize) -> impl Iterator<Item = &str> {
        let classes = self.classes.iter().filter(move |it| it.group == group);
        classes.filter_map(|class| class.limit.class.as_deref())
    }

    /// The limit of an instance in a group.
    pub fn limit_of(&self, group: usize, instance: Option<&str>) -> &InstanceLimit {
        let mut classes = self.classes.iter().filter(|it| it.group == group);
        let own = classes.clone().find(|class| class.holds_for(instance));
        // Outside the base limit, one that no class holds for has no requests here.
        let own = own.or_else(|| classes.next_back().filter(|_| group > 0));
        own.map_or(&self.base, |class| &class.limit)
    }
}

impl Group {
    fn matches(&self, method: &Method, path: &str, is_batch_path: bool) -> bool {
        // Many servers ignore a trailing slash.
        let bare = path.strip_suffix('/').unwrap_or(path);
        let is_method = self.methods.is_empty() || self.methods.contains(method);
        is_method
            && (self.paths.is_empty()
                || self.paths.iter().any(|pattern| {
                    // A wildcard does not match receipts: pacing them as sends would delay every
                    // read mark.
                    (pattern.is_literal() || !is_batch_path)
                        && (pattern.matches(path) || pattern.matches(bare))
                }))
    }
}

impl ClassRule {
    fn holds_for(&self, instance: Option<&str>) -> bool {
        match (&self.instances, instance) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(instances), Some(instance)) => instances.contains(instance),
        }
    }
}

/// The instances that a class holds for, those of its tenants included.
fn instances(class: &Class, config: &Config) -> Option<HashSet<Box<str>>> {
    if class.instances.is_empty() && class.tenants.is_empty() {
        return None;
    }
    let tenants = config.tenants.iter();
    let of_tenants = tenants.filter(|tenant| class.tenants.contains(&tenant.name));
    let of_tenants = of_tenants.flat_map(|tenant| &tenant.instances);
    let all = class.instances.iter().chain(of_tenants);
    Some(all.map(|instance| Box::from(&**instance)).collect())
}
