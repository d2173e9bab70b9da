"""What makes a service of it: live traffic, fair turns, deadlines, money, limits and forecasts, each measured."""
