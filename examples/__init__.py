"""Systems built with kafkasaga; importable as `kafkasaga.examples`, from a checkout and from an installed wheel."""
