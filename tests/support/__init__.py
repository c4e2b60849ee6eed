"""What several test files share: strategies and fakes, written once."""
