"""Commands of `tfvit`, by what they work on; `tfvit.cli` puts them together."""
