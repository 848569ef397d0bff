"""What people and programs see: REST API, SQL sandbox, explorer, figures. Presentation only, no decisions."""
