//! The section `[cluster]`.

use super::*;

fn read(file: &str) -> Effective {
    read_with(file, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn read_with(file: &str, env: &[(&str, &str)]) -> Result<Effective, Mistakes> {
    load_text(file, env, &Overrides::default())
}

#[test]
fn without_a_url_there_is_no_cluster_and_nothing_of_it_is_shown() {
    for file in ["", "[cluster]\n", "[cluster]\nname = \"wawp\"\n"] {
        let effective = read(&format!("# defaults\n{file}"));
        assert_eq!(effective.config.cluster, None);
        assert!(!effective.to_string().contains("cluster"), "{effective}");
    }
}

#[test]
fn a_url_is_enough_for_a_cluster() {
    let by_file = read("[cluster]\nurl = \"redis://a\"").config.cluster;
    let cluster = by_file.clone().unwrap();
    assert_eq!(cluster.url.to_string(), "redis://a:6379/0");
    assert_eq!((&*cluster.name, cluster.replicas.get()), ("wawp", 1));
    assert_eq!((cluster.timeout.as_millis(), cluster.ca), (100, None));
    assert!(cluster.merge);
    let variable = [("WAWP_GATEWAY_CLUSTER__URL", "redis://a")];
    let by_variable = read_with("", &variable).unwrap();
    assert_eq!(by_variable.config.cluster, by_file);
}

#[test]
fn any_other_setting_of_a_cluster_needs_its_url() {
    for (file, env) in [
        ("[cluster]\nreplicas = 3", &[][..]),
        ("", &[("WAWP_GATEWAY_CLUSTER__NAME", "blue")][..]),
    ] {
        let mistakes = read_with(file, env).unwrap_err().to_string();
        assert!(mistakes.contains("cluster.url"), "{mistakes}");
        assert!(mistakes.contains("1 mistake "), "{mistakes}");
    }
}

#[test]
fn a_password_is_read_from_where_it_is_kept_and_shown_nowhere() {
    let env = [("REDIS_URL", "rediss://u:s3@a/1")];
    let effective = read_with("cluster.url = \"env:REDIS_URL\"", &env).unwrap();
    let shown = format!("{effective}{:?}", effective);
    assert!(shown.contains("url = \"rediss://…@a:6379/1\""), "{shown}");
    assert!(!shown.contains("s3"), "{shown}");
    for wrong in ["redis://u:s3@a:x", "http://u:s3@a", "s3"] {
        let mistakes = read_with(&format!("cluster.url = {wrong:?}"), &[]).unwrap_err();
        let mistakes = format!("{mistakes}{mistakes:?}");
        assert!(mistakes.contains("redis+sentinel://"), "{mistakes}");
        assert!(!mistakes.contains("s3"), "{mistakes}");
    }
}

#[test]
fn a_changed_password_needs_a_restart_although_both_are_shown_equally() {
    let url = |password: &str| read(&format!("cluster.url = \"redis://u:{password}@a\""));
    let pending = |new| InForce::from(&url("old")).reloaded(&url(new), |_| false);
    assert_eq!(pending("new").pending_restart(), ["cluster.url"]);
    assert!(pending("old").pending_restart().is_empty());
}
