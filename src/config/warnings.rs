//! What is allowed in the settings, but probably not meant.
//!
//! Invariant: no warning repeats a secret.

use std::collections::HashMap;

use super::effective::Effective;

impl Effective {
    /// One line for each thing that is probably not meant, with the place where it was set.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.instances_without_token();
        warnings.extend(self.shared_tokens());
        warnings
    }

    /// A key does not open an instance for which there is no token.
    fn instances_without_token(&self) -> Vec<String> {
        let tenants = self.config.tenants.iter().enumerate();
        let with_key = tenants.filter(|(_, tenant)| tenant.all_keys().next().is_some());
        with_key
            .flat_map(|(index, tenant)| {
                let instances = tenant.instances.iter();
                let missing = instances.filter(|it| !tenant.tokens.contains_key(*it));
                missing.map(move |instance| {
                    let why = format!(
                        "{instance:?} has no access token in tenant.tokens, so a key does not open it"
                    );
                    self.warning(index, "instances", &why)
                })
            })
            .collect()
    }

    /// A token that two tenants have opens each other's instances at the API.
    fn shared_tokens(&self) -> Vec<String> {
        // Compared as settings, not with what a client sent.
        let mut owners = HashMap::new();
        let mut warnings = Vec::new();
        for (index, tenant) in self.config.tenants.iter().enumerate() {
            for (instance, token) in &tenant.tokens {
                let first =
                    *owners
                        .entry(token.expose())
                        .or_insert((index, &tenant.name, instance));
                if first.0 != index {
                    let why = format!(
                        "{instance:?} has the same access token as {:?} of tenant {:?}",
                        first.2, first.1
                    );
                    warnings.push(self.warning(index, "tokens", &why));
                }
            }
        }
        warnings
    }

    /// A warning about a setting of a tenant.
    fn warning(&self, tenant: usize, key: &str, why: &str) -> String {
        let path = format!("tenant[{tenant}].{key}");
        let setting = self.shown.iter().find(|setting| setting.path() == path);
        let origin = setting.map(|setting| format!("{}: ", setting.origin));
        format!("{}{path}: {why}", origin.unwrap_or_default())
    }
}
