"""What people and programs see: REST API, SQL sandbox, explorer, figures. It shows and decides nothing."""
