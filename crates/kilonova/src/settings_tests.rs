#![allow(clippy::unwrap_used)]
use super::*;
use conductor::flows::hosts_fit::Checks;

fn applied(text: &str) -> (Settings, Vec<String>, Vec<String>) {
    let mut settings = Settings::default();
    let entries = config_file::parse(text).unwrap();
    let mut said = Said::default();
    for entry in &entries {
        said.note(&entry.section, &entry.name, &entry.value);
    }
    let (warnings, wrong) = apply(&mut settings, Path::new("k.conf"), &entries, &said);
    (settings, warnings, wrong)
}

fn read_file(named: Option<&Path>, home: &Path) -> Result<Read> {
    read(named, home, |_| None, &[])
}

/// A file that says nothing comes before the system's.
fn home_with_nothing() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("kilonova.conf"), "").unwrap();
    home
}

/// The settings of a home whose file says nothing, with what is given by hand.
fn given(given: &[&str]) -> Result<Settings> {
    let home = home_with_nothing();
    let given: Vec<String> = given.iter().map(|one| (*one).to_owned()).collect();
    Ok(read(None, home.path(), |_| None, &given)?.settings)
}

/// And with what the environment says.
fn read_in(variable: impl Fn(&str) -> Option<String>) -> Result<Settings> {
    let home = home_with_nothing();
    Ok(read(None, home.path(), variable, &[])?.settings)
}

#[test]
fn every_key_is_shown_and_read_back() {
    let changed = Settings {
        hypervisor: Hypervisor::Sim,
        simulated_hosts: 7,
        user: "someone".to_owned(),
        listen: "0.0.0.0".to_owned(),
        identity_port: 1,
        compute_port: 2,
        metadata_port: 3,
        placement_port: 4,
        image_port: 5,
        network_port: 6,
        gateway_host: "compute1".to_owned(),
        volume_port: 7,
        key_manager_port: 13,
        nbd_listen: "192.0.2.1".to_owned(),
        nbd_port: 8,
        quota_gigabytes: -1,
        quota_volumes: 20,
        quota_snapshots: 30,
        default_volume_type: "fast".to_owned(),
        max_over_subscription_ratio: 2.5,
        public_range: "192.0.2.0/24".to_owned(),
        private_range: "10.1.0.0/16".to_owned(),
        compute_database: "postgres://h/c".to_owned(),
        identity_database: "postgres://h/i".to_owned(),
        image_database: "mysql://h/g".to_owned(),
        network_database: "sqlite:///n".to_owned(),
        volume_database: "sqlite:///v".to_owned(),
        key_manager_database: "postgres://h/k".to_owned(),
        database_connections: 9,
        report_interval: 11,
        service_down_time: 12,
        reclaim_instance_interval: 600,
        shelved_offload_time: -1,
        shutdown_timeout: 0,
        wait_soft_reboot: 240,
        resize_confirm_window: 900,
        sync_power_state_interval: -1,
        running_deleted_action: OfDeleted::Log,
        running_deleted_timeout: 1200,
        resume_guests: true,
        virt_type: virt::libvirt::Acceleration::Kvm,
        image_cache_interval: -1,
        unused_image_age: 3600,
        reconcile_interval: 0,
        resize_on_same_host: OnSameHost::False,
        verify_signatures: true,
        validate_certificates: true,
        trusted_certificates: "one, $two".to_owned(),
        rescue_image: "6a54f3c0-3f5e-4b3a-9f0e-1f6f0f0e2b11".to_owned(),
        swtpm_enabled: true,
        cpu: CpuChoice {
            mode: Some(virt::libvirt::CpuMode::Custom),
            models: vec!["Haswell".to_owned(), "Skylake-Client".to_owned()],
            flags: vec!["+pcid".to_owned(), "-mtrr".to_owned()],
        },
        detach_attempts: 3,
        detach_timeout: 7,
        live: LiveMigration {
            auto_converge: true,
            post_copy: true,
            completion_timeout: 5,
            timeout_action: "force_complete".to_owned(),
            checks: Checks {
                skip_cpu: true,
                skip_version: true,
            },
        },
        scheduling: scheduler::Settings {
            filters: vec![
                scheduler::Filter::AggregateInstanceExtraSpecs,
                scheduler::Filter::IoOps,
            ],
            weights: scheduler::Weights {
                ram: 0.5,
                cpu: 2.0,
                disk: 0.0,
                io_ops: 1.0,
                build_failure: 3.0,
                num_instances: -1.5,
                hypervisor_version: 4.0,
                soft_affinity: 100.0,
                soft_anti_affinity: 101.0,
            },
            host_subset_size: 3,
            max_instances_per_host: 7,
            max_io_ops_per_host: 2,
            default_zone: "here".to_owned(),
        },
        cpu_allocation_ratio: 16.0,
        ram_allocation_ratio: 1.5,
        disk_allocation_ratio: 0.5,
        reserved_host_memory_mb: 1,
        reserved_host_disk_mb: 2048,
        internal_availability_zone: "inside".to_owned(),
        default_floating_pool: "outside".to_owned(),
        policy_file: "/somewhere/policy.yaml".to_owned(),
        policy_folder: String::new(),
        rate_limit_requests: 100,
        rate_limit_seconds: 30,
        metrics_listen: "[::1]:9180".to_owned(),
        max_limit: 50,
        compute_link_prefix: "https://cloud.example.org/compute".to_owned(),
        glance_link_prefix: "https://cloud.example.org/image".to_owned(),
        max_request_body_size: 4096,
        transport_url: "rabbit://u:***@h1:1,u:***@h2:2/v".to_owned(),
        host: "h1".to_owned(),
        my_ip: "192.0.2.1".to_owned(),
        public_address: "cloud.example.org".to_owned(),
        site_auth_url: "https://keystone:5000/v3".to_owned(),
        site_username: "compute".to_owned(),
        site_password: "***".to_owned(),
        site_user_domain: "users".to_owned(),
        site_project: "services".to_owned(),
        site_project_domain: "projects".to_owned(),
        image_endpoint: "http://i:1".to_owned(),
        network_endpoint: "https://n:2".to_owned(),
        volume_endpoint: "https://v:3".to_owned(),
        key_manager_endpoint: "https://k:4".to_owned(),
        // A secret is not shown.
        metadata_secret: "***".to_owned(),
        metadata_endpoint: "http://m:3".to_owned(),
        conductor_listen: "unix:/c".to_owned(),
        network_listen: "unix:/n".to_owned(),
        tunnel_address: "192.0.2.7".to_owned(),
        agent_certificates: "/etc/agent".to_owned(),
        tls_certificate: "/etc/api.pem".to_owned(),
        tls_key: "/etc/api.key".to_owned(),
        tls_authority: "/etc/ca.pem".to_owned(),
        conductors: "unix:/c, https://d:8790".to_owned(),
        peer_port: 1234,
        networks: "unix:/n".to_owned(),
        event_retention: 61,
        agent_metrics_listen: "127.0.0.1:9181".to_owned(),
        notification: Notification {
            driver: "messagingv2".to_owned(),
            format: "both".to_owned(),
            state_changes: "vm_state".to_owned(),
            topics: "a,b".to_owned(),
            versioned_topics: "c".to_owned(),
            transport_url: "rabbit://h:1/".to_owned(),
            exchange: "other".to_owned(),
            durable: true,
        },
    };
    let (read, warnings, wrong) = applied(&changed.to_file());
    assert_eq!((warnings, wrong), (vec![], vec![]));
    assert_eq!(read, changed);
    assert_eq!(
        applied(&Settings::default().to_file()).0,
        Settings::default()
    );
}

#[test]
fn each_section_is_shown_once() {
    let text = Settings::default().to_file();
    let mut sections: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    let shown = sections.len();
    sections.sort_unstable();
    sections.dedup();
    assert_eq!(sections.len(), shown, "{text}");
}

#[test]
fn a_wrong_value_is_named_with_file_and_line() {
    for (line, named) in [
        ("[DEFAULT]\nosapi_compute_listen_port = 99999", "99999"),
        ("[DEFAULT]\nosapi_compute_listen_port = 0", "1 to 65535"),
        (
            "[DEFAULT]\ncompute_driver = xenapi.XenAPIDriver",
            "libvirt.LibvirtDriver",
        ),
        ("[DEFAULT]\ninitial_cpu_allocation_ratio = -1", "above 0"),
        (
            "[filter_scheduler]\nenabled_filters = ComputeFilter, JsonFilter",
            "JsonFilter",
        ),
        (
            "[filter_scheduler]\nram_weight_multiplier = much",
            "a number",
        ),
        ("[DEFAULT]\nservice_down_time = soon", "soon"),
        ("[database]\nconnection = oracle://x", "oracle"),
        ("[database]\nconnection = here.db", "URL"),
        ("[network]\npublic_range = 10.0.0.0", "range"),
        ("[kilonova]\nlisten = localhost", "IP address"),
        ("[kilonova]\nmetrics_listen = 9180", "address with a port"),
        ("[kilonova]\nuser =", "empty"),
        ("[DEFAULT]\ntransport_url = kafka://h", "kafka"),
        ("[DEFAULT]\nmy_ip = here", "IP address"),
        ("[vxlan]\nlocal_ip = here", "IP address"),
        ("[glance]\nendpoint_override = controller", "URL"),
        ("[agent]\nconductors = unix:/a, /b", "/b"),
        ("[libvirt]\ncpu_mode = maximum", "host-passthrough"),
        ("[libvirt]\ncpu_model_extra_flags = pcid, +", "\"+\""),
        ("[libvirt]\ndevice_detach_attempts = 0", "1 to 1000"),
        ("[libvirt]\ndevice_detach_timeout = 0", "1 to 86400"),
    ] {
        let (_, warnings, wrong) = applied(line);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(wrong.len(), 1, "{line}");
        assert!(wrong[0].starts_with("k.conf:2: ["), "{}", wrong[0]);
        assert!(wrong[0].contains(named), "{}", wrong[0]);
    }
}

#[test]
fn an_unknown_name_is_told_with_file_and_line() {
    for (text, told) in [
        (
            "[api]\n\nmax_limits = 5",
            "k.conf:3: [api] max_limits is not known and has no effect; did you mean [api] max_limit?",
        ),
        (
            "[DEFAULT]\nmax_limit = 5",
            "k.conf:2: [DEFAULT] max_limit is not known and has no effect; did you mean [api] max_limit?",
        ),
        (
            "[glance]\nx = 5",
            "k.conf:2: [glance] x is not known and has no effect; `kilonova config show` lists what there is",
        ),
    ] {
        let (settings, warnings, wrong) = applied(text);
        assert_eq!(warnings, [told]);
        assert!(wrong.is_empty());
        assert_eq!(settings, Settings::default());
    }
}

#[test]
fn what_is_wrong_and_what_is_unknown_are_told_together() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("k.conf");
    let text = "[api]\nmax_limits = 5\nmax_limit = many\n[glance]\nx = 5\nendpoint_override = controller\n";
    std::fs::write(&file, text).unwrap();
    let told = read_file(Some(&file), home.path());
    let told = told.err().unwrap().to_string();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    for (line, place) in [(3, "[api] max_limit:"), (6, "[glance] endpoint_override:")] {
        let place = format!(":{line}: {place}");
        assert!(told.contains(&place), "{told}");
    }
    for (line, place) in [(2, "[api] max_limits"), (5, "[glance] x")] {
        let place = format!(":{line}: {place} is not known");
        assert!(told.contains(&place), "{told}");
    }
}

#[test]
fn nova_conf_urls_are_understood_and_passwords_not_shown() {
    let (settings, _, wrong) =
        applied("[database]\nconnection = mysql+pymysql://nova:s3cret@db/nova");
    assert!(wrong.is_empty());
    assert_eq!(settings.compute_database, "mysql://nova:s3cret@db/nova");
    assert!(
        settings
            .to_file()
            .contains("connection = mysql://nova:***@db/nova")
    );
    assert!(!settings.to_file().contains("s3cret"));
    let mut settings = settings;
    settings.transport_url = "rabbit://nova:s3cret@mq/".to_owned();
    assert!(!settings.to_file().contains("s3cret"));
    settings.forget_databases();
    assert!(!serde_json::to_string(&settings).unwrap().contains("s3cret"));
}

#[test]
fn the_file_in_the_home_is_found_and_a_named_one_must_be_there() {
    let home = tempfile::tempdir().unwrap();
    assert!(read_file(Some(&home.path().join("none")), home.path()).is_err());
    std::fs::write(home.path().join("kilonova.conf"), "[api]\nmax_limit = 5\n").unwrap();
    let found = read_file(None, home.path()).unwrap();
    assert_eq!(found.settings.max_limit, 5);
    assert_eq!(found.file, Some(home.path().join("kilonova.conf")));
    std::fs::write(home.path().join("kilonova.conf"), "[api]\nmax_limit\n").unwrap();
    let error = read_file(None, home.path()).err().unwrap().to_string();
    assert!(error.contains("kilonova.conf:2: "), "{error}");
}

#[test]
fn a_setting_can_be_given_by_hand() {
    let settings = given(&[
        "DEFAULT.osapi_compute_listen_port=8999",
        "database.connection=postgresql://u:a=b@h/nova",
    ]);
    let settings = settings.unwrap();
    assert_eq!(settings.compute_port, 8999);
    assert_eq!(settings.compute_database, "postgres://u:a=b@h/nova");
    for (one, told) in [
        (
            "compute_port",
            "--set \"compute_port\": it is not section.name=value",
        ),
        ("DEFAULT.nothing=1", "--set DEFAULT.nothing is not known"),
        (
            "DEFAULT.osapi_compute_listen_port=x",
            "--set DEFAULT.osapi_compute_listen_port: \"x\" is not a port",
        ),
        (
            "DEFAULT.host=$nothing",
            "--set DEFAULT.host: a $ is followed by what names nothing",
        ),
    ] {
        let error = given(&[one]).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// Conductors wait for hosts that wait for guests.
#[test]
fn both_sides_of_a_detach_wait_for_as_long() {
    let settings = Settings::default();
    let patience = conductor::flows::grace::Patience::default();
    assert_eq!(settings.detaching().in_all(), patience.detach);
}

/// As Nova's compute service does not start with them.
#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (set, told) in [
        (
            &["libvirt.cpu_mode=custom"] as &[&str],
            "cpu_models is required",
        ),
        (
            &["libvirt.cpu_models=Haswell"],
            "only for cpu_mode = custom",
        ),
        (
            &["libvirt.cpu_mode=host-model", "libvirt.cpu_models=Haswell"],
            "only for cpu_mode = custom",
        ),
    ] {
        let error = given(set).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let set = [
        "libvirt.cpu_mode=custom",
        "libvirt.cpu_models= Haswell , EPYC",
    ];
    assert_eq!(given(&set).unwrap().cpu.models, ["Haswell", "EPYC"]);
}

#[test]
fn values_refer_to_others_wherever_those_are_said() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("k.conf");
    let text = "[glance]\nendpoint_override = http://$my_ip:${image.port}\n[DEFAULT]\nmy_ip = 192.0.2.1\n\
                [database]\nconnection = mysql://nova:pa$$word@$my_ip/nova\n[vnc]\nserver_listen = $state_path\n";
    std::fs::write(&file, text).unwrap();
    let found = read_file(Some(&file), home.path()).unwrap();
    let settings = found.settings;
    assert_eq!(settings.image_endpoint, "http://192.0.2.1:9292");
    assert_eq!(
        settings.compute_database,
        "mysql://nova:pa$word@192.0.2.1/nova"
    );
    assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
    // The last word counts, whoever has it.
    let variable = |name: &str| (name == "OS_IMAGE__PORT").then(|| "80".to_owned());
    let hand = ["DEFAULT.my_ip=192.0.2.2".to_owned()];
    let found = read(Some(&file), home.path(), variable, &hand).unwrap();
    assert_eq!(found.settings.image_endpoint, "http://192.0.2.2:80");
    let text = "[DEFAULT]\n\nhost = $hostname\n[api]\nmax_limit = $api.max_limit\n";
    std::fs::write(&file, text).unwrap();
    let told = read_file(Some(&file), home.path()).err().unwrap();
    let told = told.to_string();
    for (line, words) in [
        (3, "[DEFAULT] host: a $ is followed by what names nothing"),
        (5, "[api] max_limit: $api.max_limit refers to itself"),
    ] {
        let words = format!("k.conf:{line}: {words}");
        assert!(told.contains(&words), "{told}");
    }
}

#[test]
fn agents_and_services_meet_in_the_home_unless_told_otherwise() {
    let socket = Path::new("/home/run/agents.sock");
    let unix = |path: &str| Place::Unix(path.into());
    let mut settings = Settings::default();
    assert_eq!(
        settings.conductor_places(socket).unwrap(),
        [settings.conductor_desk(socket).unwrap()]
    );
    assert_eq!(
        settings.network_places(socket).unwrap(),
        [settings.network_desk(socket).unwrap()]
    );
    settings.conductors = "unix:/a,unix:/b ,".to_owned();
    assert_eq!(
        settings.conductor_places(socket).unwrap(),
        [unix("/a"), unix("/b")]
    );
    settings.conductor_listen = "unix:/a,unix:/b".to_owned();
    assert!(settings.conductor_desk(socket).is_err());
}

#[test]
fn simulated_hosts_have_names() {
    let mut settings = Settings::default();
    assert_eq!(settings.simulated_names(), ["sim-host-1"]);
    settings.host = "left".to_owned();
    assert_eq!(settings.simulated_names(), ["left"]);
    settings.simulated_hosts = 2;
    assert_eq!(settings.simulated_names(), ["left-1", "left-2"]);
}

#[test]
fn a_sites_own_identity_service_is_known_by_its_root() {
    let settings = Settings::default();
    assert!(settings.site_identity().is_none());
    assert_eq!(settings.auth_url(), "http://127.0.0.1:5000/v3");
    for url in ["http://keystone:5000", "http://keystone:5000/v3/"] {
        let settings = given(&[&format!("keystone_authtoken.auth_url={url}")]).unwrap();
        let (root, login) = settings.site_identity().unwrap();
        assert_eq!(root, "http://keystone:5000");
        assert_eq!(login.username, "nova");
        assert_eq!(settings.auth_url(), "http://keystone:5000/v3");
    }
}

#[test]
fn the_environment_says_it_as_oslo_does() {
    let said = |name: &str| match name {
        "OS_DEFAULT__REPORT_INTERVAL" => Some("3".to_owned()),
        "OS_DATABASE__CONNECTION" => Some("postgresql://h/nova".to_owned()),
        _ => None,
    };
    let settings = read_in(said).unwrap();
    assert_eq!(settings.report_interval, 3);
    assert_eq!(settings.compute_database, "postgres://h/nova");
    let wrong = |name: &str| (name == "OS_DEFAULT__REPORT_INTERVAL").then(|| "soon".to_owned());
    let refused = read_in(wrong).unwrap_err().to_string();
    assert!(
        refused.starts_with("OS_DEFAULT__REPORT_INTERVAL: "),
        "{refused}"
    );
}
