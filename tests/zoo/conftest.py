from fake_hub import hub, hub_cache

__all__ = ("hub", "hub_cache")
