resource "pgha_host" "pg1" {
  name    = "pg1"
  address = "10.0.0.11"
}

# A host with an SSH server of its own kind, packages from a mirror, and checks
# that are stricter than the defaults.
resource "pgha_host" "pg2" {
  name    = "pg2"
  address = "10.0.0.12"

  ssh = {
    user     = "ops"
    port     = 2222
    host_key = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
  }

  preflight = {
    min_cpus   = 4
    min_memory = "16GiB"
    min_disk   = "200GiB"
  }

  apt = {
    repositories = {
      internal = {
        uris             = ["https://mirror.example.com/debian"]
        suites           = ["trixie"]
        components       = ["main"]
        signing_key_path = "/usr/share/keyrings/debian-archive-keyring.gpg"
      }
    }
  }

  time_sync = "chrony"
}
