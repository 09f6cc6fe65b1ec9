"""Services, plans and the parameters that they take."""
