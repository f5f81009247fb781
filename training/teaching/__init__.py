"""What recommenders that were trained before teach one that is trained now."""
