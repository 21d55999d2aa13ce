"""Where images come from by themselves: videos, cameras and folders that are filled."""
