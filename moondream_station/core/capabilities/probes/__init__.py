"""What each vendor's tools and files are asked, and what their answers mean."""
