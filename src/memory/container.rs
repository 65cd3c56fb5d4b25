//! Whether a missing limit is a mistake.

use super::machine::Machine;

/// What container engines leave behind in the file system.
const FILES: [&str; 4] = [
    "/.dockerenv",
    "/run/.containerenv",
    // systemd, for whatever runs it.
    "/run/systemd/container",
    "/var/run/secrets/kubernetes.io",
];

/// And in the environment.
const VARIABLES: [&str; 4] = [
    "ECS_CONTAINER_METADATA_URI",
    "ECS_CONTAINER_METADATA_URI_V4",
    "KUBERNETES_SERVICE_HOST",
    CONTAINER,
];

/// Set for the first process of a container by systemd-nspawn, LXC, podman and others.
const CONTAINER: &str = "container";

/// Whether this looks like a container, where a missing limit is a mistake
/// rather than a laptop.
pub(super) fn is_container(machine: &Machine, is_set: impl Fn(&str) -> bool) -> bool {
    FILES.iter().any(|file| machine.path(file).exists())
        || VARIABLES.iter().any(|name| is_set(name))
        || first_process_says_so(machine)
}

/// Readable where the first process is our own or one of the same user's.
fn first_process_says_so(machine: &Machine) -> bool {
    let environment = machine.read("/proc/1/environ").unwrap_or_default();
    let mut variables = environment.split(|&byte| byte == 0);
    variables.any(|variable| {
        let value = variable.strip_prefix(CONTAINER.as_bytes());
        value.is_some_and(|value| value.len() > 1 && value[0] == b'=')
    })
}

#[cfg(test)]
mod tests {
    use super::super::laid_out::LaidOut;
    use super::*;

    fn is_with(file: &str, text: &str, variable: &str) -> bool {
        let laid_out = LaidOut::new();
        laid_out.write(file, text);
        is_container(&laid_out.machine(), |name| name == variable)
    }

    #[test]
    fn a_laptop_is_none() {
        assert!(!is_with("proc/1/environ", "HOME=/\0TERM=linux\0", "HOME"));
        assert!(!is_with("proc/1/environ", "container=\0containers=9\0", ""));
        assert!(!is_with("etc/hosts", "", "MEMORY_GUARD_ENABLED"));
    }

    #[test]
    fn engines_are_told_by_what_they_leave_behind() {
        for file in FILES {
            assert!(is_with(&file[1..], "lxc\n", ""), "{file}");
        }
        // AWS Fargate, Kubernetes without a service account, podman.
        for variable in VARIABLES {
            assert!(is_with("etc/hosts", "", variable), "{variable}");
        }
        // LXC.
        assert!(is_with("proc/1/environ", "TERM=linux\0container=lxc\0", ""));
    }
}
